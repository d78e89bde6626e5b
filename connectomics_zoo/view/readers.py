"""Reads blocks of one volume from several threads, and keeps what would be decoded again and again."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes import Box, Volume

MOST = 6
"""Readers of a volume behind a URI, as many as a browser asks at once."""

_KEPT_BYTES = 2**28
"""Sections of pictures that are kept, since each part of one costs as much as all of it."""


class Reader:
    """Volumes are for one thread each: those behind URIs, which answer late, are opened several times.

    Args:
        volume: what is read.
        copies: how many readers there may be at once.
    """

    def __init__(self, volume: Volume, *, copies: int = 1) -> None:
        self.volume = volume
        self._turns = threading.BoundedSemaphore(copies)
        self._free = [volume]
        self._lock = threading.Lock()

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of `box` as (C, Z, Y, X); of a volume without channels, C is 1.

        Raises:
            VolumeError: see `Volume.read`.
        """
        with self._turns:
            with self._lock:
                volume = self._free.pop() if self._free else copy.copy(self.volume)
            try:
                block = self._read(volume, box)
            finally:
                with self._lock:
                    self._free.append(volume)
        return block if block.ndim == 4 else block[np.newaxis]

    def _read(self, volume: Volume, box: Box) -> NDArray[Any]:
        return volume.read(box)

    def close(self) -> None:
        """Close what was opened."""
        with self._lock:
            for volume in self._free:
                volume.close()


class SectionReader(Reader):
    """Reads sections whole, as pictures are decoded, and keeps the last ones."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume)
        self._sections: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def _read(self, volume: Volume, box: Box) -> NDArray[Any]:
        _, rows, columns = box.slices
        sections = [self._section(volume, z)[..., rows, columns] for z in range(*box.ranges[0])]
        return np.concatenate(sections, axis=-3)

    def _section(self, volume: Volume, z: int) -> NDArray[Any]:
        if z not in self._sections:
            self._sections[z] = volume.read(volume.whole.replace(z=(z, z + 1)))
        self._sections.move_to_end(z)
        while len(self._sections) > 1 and sum(kept.nbytes for kept in self._sections.values()) > _KEPT_BYTES:
            self._sections.popitem(last=False)
        return self._sections[z]
