"""An array of chunks that tensorstore reads, on disk or behind a URI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.store_files import METADATA_SECONDS, reachable, read_files
from connectomics_zoo.volumes.uri import Place, kvstore_of, store_context

_READ_SECONDS = 900
"""A block gets so long, of which most take seconds."""


class ChunkedArray:
    """An open array; `read` touches only the chunks that the index needs."""

    def __init__(
        self,
        driver: str,
        *,
        folder: Place,
        metadata: str,
        document: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the array in `folder`.

        Args:
            driver: tensorstore's name of the format.
            folder: holds the file of metadata.
            metadata: the name of that file.
            document: what tensorstore shall find in it, where it is stricter than the programs that write the format.
            options: further members of the specification.

        Raises:
            VolumeError: the server is not reached, or does not give it.
            RuntimeError: tensorstore does not read it.
        """
        self._metadata = _Metadata(folder, metadata)
        with reachable(folder):
            kvstore = kvstore_of(folder) if document is None else _overlaid(folder, metadata, document)
            spec = {"driver": driver, "kvstore": kvstore, "recheck_cached_data": "open", **(options or {})}
            opening = tensorstore.open(spec, read=True, open=True, context=store_context())
            store = opening.result(timeout=METADATA_SECONDS)
        self._store = store[tuple(slice(None) for _ in range(store.rank))]
        if store.rank:
            # Precomputed volumes count voxels from where they lie.
            self._store = self._store[tensorstore.d[:].translate_to[0]]
        self._folder = folder
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.dtype: np.dtype[Any] = np.dtype(store.dtype.numpy_dtype)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`.

        Raises:
            VolumeError: the store was changed since it was opened, or the server is not reached.
            RuntimeError: the chunks there cannot be decoded.
        """
        if isinstance(self._folder, Path):
            # Chunks of another array would mostly be decoded, and those that are removed read as the fill value.
            self._metadata.refuse_change()
        try:
            with reachable(self._folder):
                return np.asarray(self._store[index].read().result(timeout=_READ_SECONDS))
        except RuntimeError:
            self._metadata.refuse_change()
            raise


def _overlaid(folder: Place, name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensorstore's specification of a folder in which the file `name` holds `document`."""
    held = {"driver": "memory", "path": f"{folder}/"}
    store = tensorstore.KvStore.open(held, context=store_context()).result()
    store.write(name, json.dumps(document).encode()).result()
    layers = [{"base": kvstore_of(folder)}, {"exact": name, "base": {**held, "path": f"{folder}/{name}"}}]
    return {"driver": "kvstack", "layers": layers}


class _Metadata:
    """The file of metadata of an array, as it was when the array was opened."""

    def __init__(self, folder: Place, name: str) -> None:
        self._folder, self._name = folder, name
        self._stamp = self._stamped()
        self._content = read_files(folder, [name]).get(name)

    def _stamped(self) -> tuple[int, ...]:
        """Return what changes with a local file; nothing of another one."""
        if not isinstance(self._folder, Path):
            return ()
        try:
            found = (self._folder / self._name).stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def refuse_change(self) -> None:
        """Raise if the file is another one or gone.

        Raises:
            VolumeError: it is.
        """
        stamp = self._stamped()
        if stamp and stamp == self._stamp:
            return
        if read_files(self._folder, [self._name]).get(self._name) != self._content:
            raise VolumeError(
                f"{self._folder}: was changed while it was read, wait until whatever writes it is done and begin again."
            )
        self._stamp = stamp
