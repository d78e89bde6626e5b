"""Opens the array at a location: one line for each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from connectomics_zoo.volumes.hdf5 import Hdf5Array
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import Format, Location
from connectomics_zoo.volumes.metadata import StatedVoxelSize
from connectomics_zoo.volumes.mrc import MrcArray
from connectomics_zoo.volumes.n5 import N5Array
from connectomics_zoo.volumes.nifti import NiftiArray
from connectomics_zoo.volumes.png import PngFolder
from connectomics_zoo.volumes.precomputed import PrecomputedArray
from connectomics_zoo.volumes.sections import find_sections
from connectomics_zoo.volumes.tiff import TiffArray, open_tiff_folder
from connectomics_zoo.volumes.zarr_array import ZarrArray


class OpenArray(Protocol):
    """What a format gives: an array in the axes of the file, which may be any order of tczyx."""

    dataset: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    offset_nm: Offset | None
    attributes: Mapping[str, Any]

    @property
    def voxel_size_nm(self) -> StatedVoxelSize: ...

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]: ...

    def close(self) -> None: ...


def open_array(location: Location) -> OpenArray:
    """Open the array at a location.

    Raises:
        VolumeError: it is not there, is damaged, or is not read.
        MissingPackageError: its format or compression needs a package that is not installed.
    """
    return _OPEN[location.format](location)


def _file(location: Location) -> Path:
    assert isinstance(location.place, Path), "files are local"
    return location.place


def _open_sections(location: Location) -> OpenArray:
    kind, sections = find_sections(_file(location))
    return open_tiff_folder(sections) if kind == "TIFF" else PngFolder(sections)


_OPEN: Mapping[Format, Callable[[Location], OpenArray]] = {
    "hdf5": lambda location: Hdf5Array(_file(location), dataset=location.dataset),
    "tiff": lambda location: TiffArray(_file(location)),
    "slices": _open_sections,
    "nifti": lambda location: NiftiArray(_file(location)),
    "mrc": lambda location: MrcArray(_file(location)),
    "zarr": lambda location: ZarrArray(location.place, dataset=location.dataset, level=location.level),
    "n5": lambda location: N5Array(location.place, dataset=location.dataset, level=location.level),
    "precomputed": lambda location: PrecomputedArray(location.place, level=location.level),
}
