"""Reads an MRC file, as IMOD and others write tomograms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import VoxelSize, as_voxel_size
from connectomics_zoo.volumes.optional import optional_package

_NM_PER_ANGSTROM = 0.1
_IMOD_STAMP = 1146047817
_IMOD_SIGNED = 1


class MrcArray:
    """An open file, mapped into memory."""

    dataset: str | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    offset_nm: Offset | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        mrcfile = optional_package("mrcfile", extra="mrc", location=path)
        with readable(path, kind="MRC"):
            self._file: Any = mrcfile.mmap(path, mode="r")
            try:
                self._open()
            except BaseException:
                self._file.close()
                raise

    def _open(self) -> None:
        header, voxels = self._file.header, self._file.data
        self.shape: tuple[int, ...] = (1,) * (3 - voxels.ndim) + tuple(voxels.shape)
        order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
        if sorted(order) != [1, 2, 3]:
            raise VolumeError(f"{self._path}: says that its axes are {order}, which must be 1, 2 and 3, correct it.")
        self.axes: str = "".join("xyz"[number - 1] for number in order) if voxels.ndim <= 3 else ""
        self._is_unsigned = voxels.dtype == np.int8 and _has_unsigned_bytes(header)
        self.dtype: np.dtype[Any] = np.dtype("uint8") if self._is_unsigned else voxels.dtype
        size = self._file.voxel_size
        self.voxel_size_nm: VoxelSize | None = as_voxel_size(
            [float(f"{size[axis] * _NM_PER_ANGSTROM:.6g}") for axis in "zyx"]
        )

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the file."""
        with readable(self._path, kind="MRC"):
            voxels = self._file.data
            block = np.array(voxels.reshape(self.shape)[index])
            return block.view(np.uint8) if self._is_unsigned else block

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _has_unsigned_bytes(header: Any) -> bool:
    """Whether IMOD wrote the bytes of mode 0 without a sign, as it did before 2011."""
    stamp, flags = np.frombuffer(bytes(header["extra2"]), dtype=header["nx"].dtype, count=12)[10:12]
    return int(stamp) == _IMOD_STAMP and not int(flags) & _IMOD_SIGNED
