"""Reads one scale of a volume in Neuroglancer's precomputed format."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.chunked import ChunkedArray
from connectomics_zoo.volumes.levels import Offset, choose_level
from connectomics_zoo.volumes.metadata import VoxelSize, as_list, as_voxel_size
from connectomics_zoo.volumes.store_files import find_json
from connectomics_zoo.volumes.uri import Place

SAID_BY = "connectomics_zoo"
"""The member of the description, which other programs skip, that says what the attributes of other formats do."""

_FILE = "info"
_PACKED = (".gz", ".br", ".zstd", ".xz", ".bz2")
_LOOKED_AT = 16
"""Files of a folder, which may hold millions of one kind."""

_ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation")


class PrecomputedArray:
    """An open scale; `read` touches only the chunks that the index needs."""

    dataset: str | None = None

    def __init__(self, place: Place, *, level: str | None = None) -> None:
        self._place = place
        with readable(place, kind="precomputed"):
            info = find_json(place, _FILE) or {}
            said = info.get(SAID_BY)
            self.attributes: Mapping[str, Any] = MappingProxyType(said if isinstance(said, dict) else {})
            scales = {str(scale["key"]): scale for scale in info["scales"]}
            sizes = {key: _in_order(scale["resolution"]) for key, scale in scales.items()}
            key = choose_level(sizes, level, location=str(place))
            scale = scales[key]
            if scale.get("encoding") not in _ENCODINGS:
                raise VolumeError(
                    f"{place}: is stored as {scale.get('encoding')!r}, which is not read (what is: "
                    f"{', '.join(_ENCODINGS)}): write it again as one of those."
                )
            _refuse_packed(place, key)
            self._chunks = ChunkedArray(
                "neuroglancer_precomputed", folder=place, metadata=_FILE, options={"scale_metadata": {"key": key}}
            )
            self._has_channels = self._chunks.shape[3] > 1
            self.shape: tuple[int, ...] = self._chunks.shape[: 4 if self._has_channels else 3]
            self.axes: str = "xyzc" if self._has_channels else "xyz"
            self.dtype: np.dtype[Any] = self._chunks.dtype
            self.voxel_size_nm: VoxelSize | None = sizes[key]
            self.offset_nm: Offset | None = _offset(scale, voxel_size_nm=self.voxel_size_nm)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, slices along x, y and z, and the channels where it has several."""
        with readable(self._place, kind="precomputed"):
            return self._chunks.read(index) if self._has_channels else self._chunks.read((*index, slice(0, 1)))[..., 0]

    def close(self) -> None:
        """Nothing stays open between two reads."""


def _refuse_packed(place: Place, key: str) -> None:
    """Refuse a scale on disk whose chunks are packed files, which would be taken for chunks that are not there."""
    folder = place / key
    if not isinstance(folder, Path) or not folder.is_dir():
        return
    for path in itertools.islice(folder.iterdir(), _LOOKED_AT):
        if path.suffix in _PACKED:
            raise VolumeError(
                f"{folder}: holds packed chunks (as {path.name}), as CloudVolume writes them, which are read behind "
                f"URIs alone: unpack them, as by `gunzip -r {folder}`."
            )


def _in_order(lengths: object) -> VoxelSize | None:
    """Return three lengths (x, y, z) in nanometres as a voxel size."""
    return as_voxel_size(as_list(lengths)[::-1])


def _offset(scale: Mapping[str, Any], *, voxel_size_nm: VoxelSize | None) -> Offset | None:
    if voxel_size_nm is None:
        return None
    x, y, z = scale.get("voxel_offset", (0, 0, 0))
    depth, height, width = voxel_size_nm
    return z * depth, y * height, x * width
