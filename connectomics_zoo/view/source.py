"""A volume as Neuroglancer's precomputed format has it: its description, and chunks that are encoded when asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from connectomics_zoo.view.pyramid import Level
from connectomics_zoo.volumes import Box, Volume

_SENT = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
"""Data types of images that the format has; of others, float32 is sent."""

_CHUNK = re.compile(r"(\d{1,12})-(\d{1,12})_(\d{1,12})-(\d{1,12})_(\d{1,12})-(\d{1,12})")


@dataclass(frozen=True)
class Source:
    """A volume that is looked at, or one of its channels."""

    levels: tuple[Level, ...]
    """The levels of detail, the finest first."""
    voxel_size_nm: tuple[float, float, float]
    """Of the finest level (z, y, x)."""
    offset_nm: tuple[float, float, float]
    """Where its first voxel lies (z, y, x)."""
    is_label: bool
    """Whether the values are labels."""
    channel: int | None = None
    """The channel that is shown alone; None for all of them."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What labels but 0 are called."""

    @property
    def volume(self) -> Volume:
        """The finest level."""
        return self.levels[0].reader.volume

    @property
    def channels(self) -> int:
        """How many channels are shown."""
        return (self.volume.channels or 1) if self.channel is None else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type that is sent: of labels, whole numbers without a sign."""
        own = self.volume.dtype
        if own.kind == "b":
            return np.dtype("<u1")
        if self.is_label:
            return np.dtype(f"<u{own.itemsize}")
        sent: np.dtype[Any] = own if own.name in _SENT else np.dtype(np.float32)
        little: np.dtype[Any] = sent.newbyteorder("<")
        return little

    def read(self, number: int, box: Box) -> Any:
        """Return the voxels of a box of a level as (C, Z, Y, X), in the data type that is sent.

        Raises:
            VolumeError: see `Volume.read`.
        """
        block = self.levels[number].read(box, is_label=self.is_label)
        chosen = block if self.channel is None else block[self.channel : self.channel + 1]
        return np.ascontiguousarray(chosen).astype(self.dtype, copy=False)

    def info(self) -> dict[str, Any]:
        """Return the description, whose lists have x first."""
        scales = [
            {
                "key": str(number),
                "size": level.shape[::-1],
                "resolution": [edge * factor for edge, factor in zip(self.voxel_size_nm, level.factors, strict=True)][
                    ::-1
                ],
                "voxel_offset": [0, 0, 0],
                "chunk_sizes": [level.chunk[::-1]],
                "encoding": "raw",
            }
            for number, level in enumerate(self.levels)
        ]
        return {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation" if self.is_label else "image",
            "data_type": self.dtype.name,
            "num_channels": self.channels,
            "scales": scales,
        } | ({"segment_properties": "properties"} if self.names else {})

    def properties(self) -> dict[str, Any]:
        """Return what labels are called."""
        names = self.names
        label = {"id": "label", "type": "label", "values": list(names.values())}
        return {
            "@type": "neuroglancer_segment_properties",
            "inline": {"ids": [str(value) for value in names], "properties": [label]},
        }

    def chunk(self, key: str, name: str) -> bytes | None:
        """Return a chunk by the key of its level and its name, None where there is none.

        Raises:
            VolumeError: the volume cannot be read there.
        """
        found = _CHUNK.fullmatch(name)
        if found is None or not key.isdecimal() or int(key) >= len(self.levels):
            return None
        x, stop_x, y, stop_y, z, stop_z = map(int, found.groups())
        level = self.levels[int(key)]
        ranges = ((z, stop_z), (y, stop_y), (x, stop_x))
        limits = zip(ranges, level.shape, level.chunk, strict=True)
        if any(not first < stop <= size or stop - first > edge for (first, stop), size, edge in limits):
            return None
        block: bytes = self.read(int(key), Box.of_ranges(ranges)).tobytes()
        return block

    def close(self) -> None:
        """Close the volume."""
        for level in self.levels:
            level.reader.close()
