"""Reads a NIfTI file; voxels are taken as they are stored, whatever way the file is turned in the world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import VoxelSize, as_voxel_size, nanometres
from connectomics_zoo.volumes.optional import optional_package

_LARGEST_NM = 1e5
"""Voxels of a tenth of a millimetre are of no electron microscope: ITK writes mm whatever the unit was."""


class NiftiArray:
    """An open file: of `.nii`, only what is asked for is read, and `.nii.gz`, which has no other beginning, whole."""

    dataset: str | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    offset_nm: Offset | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        nibabel = optional_package("nibabel", extra="nifti", location=path)
        with readable(path, kind="NIfTI"):
            image = nibabel.load(path)
            self._voxels: Any = image.dataobj
            shape = tuple(int(size) for size in image.shape)
            # Beyond the third, axes of length 1 mean nothing.
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            self._dropped = len(image.shape) - len(shape)
            self.shape: tuple[int, ...] = shape
            self.axes: str = {3: "xyz", 4: "xyzt", 5: "xyztc"}.get(len(shape), "")
            self.voxel_size_nm = _voxel_size(image.header)
            first = tuple(slice(0, 1) for _ in image.shape)
            self.dtype: np.dtype[Any] = np.asarray(self._voxels[first]).dtype if 0 not in shape else np.dtype("u1")
            if path.suffix.lower() == ".gz":
                self._voxels = np.asarray(self._voxels)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the file."""
        with readable(self._path, kind="NIfTI"):
            whole = index + (slice(0, 1),) * self._dropped
            block = np.asarray(self._voxels[whole])
            return block.reshape(block.shape[: len(self.shape)])

    def close(self) -> None:
        """Release the voxels."""
        self._voxels = None


def _voxel_size(header: Any) -> VoxelSize | None:
    factor = nanometres(header.get_xyzt_units()[0])
    if factor is None:
        return None
    # The header has single precision.
    found = as_voxel_size([float(f"{edge * factor:.6g}") for edge in header.get_zooms()[:3]][::-1])
    return None if found is None or max(found) >= _LARGEST_NM else found
