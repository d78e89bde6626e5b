"""Opens a volume for lazy reading, whatever its format."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.box import Box, refuse_outside
from connectomics_zoo.volumes.checks import DTYPES, is_supported
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import Location, find_volume
from connectomics_zoo.volumes.metadata import StatedVoxelSize, UnknownUnit, VoxelSize, as_text
from connectomics_zoo.volumes.opening import OpenArray, open_array
from connectomics_zoo.volumes.placement import Placement
from connectomics_zoo.volumes.prediction import (
    Content,
    StoredPrediction,
    declared_content,
    declared_names,
    declared_place,
    declared_texts,
    read_placement,
    read_stored,
)
from connectomics_zoo.volumes.voxel_size import is_same_voxel_size

UNFINISHED = "zoo_unfinished"
"""Attribute of an array of which blocks are still to come."""

_log = logging.getLogger(__name__)

SMALLEST_NM = 0.1
"""Edges of voxels below this, an atom's size, are in another unit."""


class Volume:
    """A volume on disk or behind a URI, (z, y, x) or (c, z, y, x); `read` loads only the part that it is asked for.

    It may be pickled and used after a fork: each process opens the file for itself at its first read.
    Within a process it is for one thread.
    """

    def __init__(self, location: Location, *, array: OpenArray, voxel_size_nm: VoxelSize | None) -> None:
        # A level is found again as the array that it is; precomputed volumes have only levels.
        level = location.level if array.dataset is None else None
        self._where = Location(location.place, array.dataset, location.format, level)
        self._axes = _checked_axes(array, location=self.location)
        if not is_supported(array.dtype):
            raise VolumeError(f"{self.location}: has the data type {array.dtype}, a volume may have {DTYPES}.")
        sizes = dict(zip(self._axes, array.shape, strict=True))
        self.shape: tuple[int, int, int] = (sizes["z"], sizes["y"], sizes["x"])
        self.channels: int | None = sizes.get("c")
        self.dtype: np.dtype[Any] = array.dtype.newbyteorder("=")
        _refuse_unfinished(array.attributes, location=self.location)
        _refuse_calibration(array.attributes, location=self.location)
        self.voxel_size_nm = _agreed_voxel_size(array.voxel_size_nm, voxel_size_nm, location=self.location)
        self.offset_nm: Offset | None = array.offset_nm
        """Where its first voxel lies in the world that its store speaks of, (z, y, x) in nm; None where it does not."""
        self.content: Content | None = declared_content(array.attributes, dtype=self.dtype)
        """What the file says that its values are; None where it does not, or where the data type cannot hold it."""
        self.class_names: Mapping[int, str] = declared_names(array.attributes)
        """What the file calls the values of labels, or the channels, by number."""
        self._place = declared_place(array.attributes)
        self._texts = declared_texts(array.attributes)
        self._stored: StoredPrediction | None = None
        self._array: OpenArray | None = array
        self._process = os.getpid()

    @property
    def location(self) -> str:
        """Path and dataset, from which the volume can be opened again."""
        return str(self._where)

    @property
    def axes(self) -> str:
        """The axes of the array as it is stored, in order, each one of `tczyx`."""
        return self._axes

    @property
    def whole(self) -> Box:
        """All of its voxels."""
        return Box.of_shape(self.shape)

    @property
    def placement(self) -> Placement | None:
        """Of which part of which volume it was predicted; None where it does not say, or of all of it.

        Raises:
            SpecError: what it says is no place.
        """
        return read_placement(self._place, shape=self.shape, location=self.location)

    def stored(self) -> StoredPrediction:
        """Return all that the file says of it as a prediction: also its task, its scale and how it came to be.

        Raises:
            SpecError: the task is no valid spec, or where it lies or how its values are stored is not understood.
        """
        if self._stored is None:
            self._stored = read_stored(
                self._texts, content=self.content, placement=self.placement, location=self.location
            )
        return self._stored

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Return the voxels of `box` as (Z, Y, X) or (C, Z, Y, X), in native byte order.

        Raises:
            VolumeError: the box is empty or reaches out of the volume, the file is damaged there, or it
                holds NaN or infinity there.
        """
        refuse_outside(box.ranges, shape=self.shape, location=self.location)
        slices = {**dict(zip("zyx", box.slices, strict=True)), "t": slice(0, 1), "c": slice(0, self.channels)}
        block = self._opened().read(tuple(slices[axis] for axis in self._axes))
        axes = self._axes
        if "t" in axes:
            block, axes = block.squeeze(axes.index("t")), axes.replace("t", "")
        order = "zyx" if self.channels is None else "czyx"
        block = block.transpose([axes.index(axis) for axis in order])
        block = np.ascontiguousarray(block, dtype=self.dtype)
        self._refuse_non_finite(block, box=box)
        return block

    def read_plain(self, box: Box) -> npt.NDArray[Any]:
        """Return the voxels of `box` as (Z, Y, X), of a volume without channels or with one; see `read`."""
        block = self.read(box)
        return block[0] if block.ndim == 4 else block

    def _opened(self) -> OpenArray:
        if self._array is not None and self._process != os.getpid():
            # Inherited by a fork: the position in the file would be shared with the parent.
            self._array.close()
            self._array = None
        if self._array is None:
            array = open_array(self._where)
            sizes = dict(zip(array.axes, array.shape, strict=False))
            if (array.axes, array.dtype.newbyteorder("="), *(sizes.get(axis) for axis in "zyxc")) != (
                self._axes, self.dtype, *self.shape, self.channels,
            ):  # fmt: skip
                array.close()
                raise VolumeError(
                    f"{self.location}: was changed while it was read (it is {array.dtype} of shape {array.shape} now), "
                    "wait until whatever writes it is done, and begin again."
                )
            self._array = array
            self._process = os.getpid()
        return self._array

    def _refuse_non_finite(self, block: npt.NDArray[Any], *, box: Box) -> None:
        if block.dtype.kind != "f":
            return
        finite = np.isfinite(block)
        if finite.all():
            return
        first = np.unravel_index(int(np.argmin(finite)), block.shape)
        starts = [0] * (block.ndim - 3) + [*box.start]
        position = tuple(start + int(step) for start, step in zip(starts, first, strict=True))
        names = "(z, y, x)" if block.ndim == 3 else "(c, z, y, x)"
        raise VolumeError(
            f"{self.location}: holds {block[first]} at {names} = {position}, replace it by a finite value first."
        )

    def close(self) -> None:
        """Release the file; a later `read` opens it again."""
        if self._array is not None:
            self._array.close()
            self._array = None

    def __enter__(self) -> Volume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}


def open_volume(location: str | Path, *, root: Path | None = None, voxel_size_nm: VoxelSize | None = None) -> Volume:
    """Open a volume for reading.

    It may be `file.h5:dataset`, `file.tif`, `file.nii.gz`, `file.mrc`, a folder of .tif or .png sections, or a store of
    chunks: `volume.zarr:array`, `volume.n5:array` or a folder in Neuroglancer's precomputed format, which may be the
    URI of one (`s3://`, `gs://`, `http://`, `https://`; see `kvstore_of` for credentials). Without a dataset, the only
    array in the file is meant, or the finest level of an image of several. `#LEVEL` after a store chooses another one,
    by its name, its number from 0 up, or the edges of its voxels (`volume.zarr#16nm`, `volume.zarr#40x8x8nm`).
    A relative location is below `root`. `voxel_size_nm` is for files that do not say theirs.

    Raises:
        VolumeError: nothing is there, or it is no volume of real numbers in three dimensions (and
            channels), or `voxel_size_nm` contradicts the file.
        MissingPackageError: its compression or format needs a package that is not installed.
    """
    where = find_volume(location, root=root)
    array = open_array(where)
    try:
        volume = Volume(where, array=array, voxel_size_nm=voxel_size_nm)
    except BaseException:
        array.close()
        raise
    elsewhere = getattr(array, "elsewhere", ())  # of HDF5 alone
    if elsewhere:
        _say_elsewhere(volume.location, elsewhere)
    return volume


@functools.cache
def _say_elsewhere(location: str, places: tuple[Path, ...]) -> None:
    """Log which other files a volume is read from, once in a process."""
    named = ", ".join(map(str, places[:3])) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    _log.warning("%s: its voxels lie in %s, where the links of the file lead.", location, named)


def _checked_axes(array: OpenArray, *, location: str) -> str:
    axes, shape = array.axes, array.shape
    if not axes:
        raise VolumeError(
            f"{location}: has {len(shape)} dimensions (shape {shape}), a volume has three, (z, y, x), or four, "
            "(c, z, y, x)."
        )
    if not set("zyx") <= set(axes):
        raise VolumeError(f"{location}: has the axes {axes!r} (shape {shape}), a volume needs z, y and x.")
    if 0 in shape:
        raise VolumeError(f"{location}: is empty (shape {shape}), check that it was written completely.")
    if "t" in axes and shape[axes.index("t")] != 1:
        raise VolumeError(f"{location}: is a time series (axes {axes!r}, shape {shape}), save one time point alone.")
    return axes


def _agreed_voxel_size(found: StatedVoxelSize, given: VoxelSize | None, *, location: str) -> VoxelSize | None:
    if isinstance(found, UnknownUnit):
        if given is None:
            raise VolumeError(
                f"{location}: says its voxel size in {found.name!r}, which is no unit of length that is known (nm, um, "
                "mm, angstrom): correct it in the file, or give the size in nm as voxel_size_nm (zoo train: "
                "data.voxel_size_nm; zoo evaluate: --voxel-size-nm)."
            )
        found = None
    if found is not None and given is not None and not is_same_voxel_size(found, given):
        raise VolumeError(
            f"{location}: says that its voxels are {_format(found)} nm, and voxel_size_nm is {_format(given)}, "
            "correct one or leave voxel_size_nm out."
        )
    size = found if found is not None else given
    if size is not None and not all(map(math.isfinite, size)):
        raise VolumeError(f"{location}: would have voxels of {_format(size)} nm, give three lengths in nanometres.")
    if size is not None and min(size) < SMALLEST_NM:
        raise VolumeError(
            f"{location}: would have voxels of {_format(size)} nm, and none is smaller than {SMALLEST_NM} nm: say the "
            "unit in the file (units, as in um), or give nanometres."
        )
    return size


def _refuse_unfinished(attributes: Mapping[str, Any], *, location: str) -> None:
    """Refuse an output of which blocks are still to come, and read as 0 until then."""
    if attributes.get(UNFINISHED):
        raise VolumeError(
            f"{location}: is not finished, blocks of it are still to come: repeat the command that makes it, which "
            "goes on where it stopped."
        )


def _refuse_calibration(attributes: Mapping[str, Any], *, location: str) -> None:
    """Refuse values that netCDF and xarray would scale: nothing here does."""
    for name, neutral in (("scale_factor", 1), ("add_offset", 0), ("_Unsigned", "false")):
        if name in attributes:
            value = attributes[name]
            said = as_text(value).lower() if isinstance(value, str | bytes) else value
            if not np.all(np.asarray(said) == neutral):
                raise VolumeError(
                    f"{location}: has values that its attribute {name} = {value} changes, which is not applied: save "
                    "the values that are meant, without the attribute."
                )


def _format(voxel_size_nm: VoxelSize) -> str:
    return "(" + ", ".join(f"{length:g}" for length in voxel_size_nm) + ")"


def check_pair(image: Volume, label: Volume, *, continuous: bool = False) -> None:
    """Check that `label` can be the truth of `image`; only `continuous` labels may be floats.

    Raises:
        VolumeError: their shapes or voxel sizes differ (by more than 1 %, where both are known), a data type does
            not fit, or the label has channels.
    """
    both = f"{image.location} and {label.location}"
    if image.shape != label.shape:
        raise VolumeError(
            f"{both}: image and label have the shapes {image.shape} and {label.shape}, and they must be equal."
        )
    if label.channels not in (None, 1):
        raise VolumeError(
            f"{label.location}: the label has {label.channels} channels, and must have none, save one of them alone as "
            "(z, y, x)."
        )
    if image.dtype.kind == "b":
        raise VolumeError(f"{image.location}: the image is bool, and must hold grey values, are the two swapped?")
    if not continuous and label.dtype.kind == "f":
        raise VolumeError(
            f"{label.location}: the label is {label.dtype}, and must hold whole numbers or bool, convert it."
        )
    if image.voxel_size_nm is None or label.voxel_size_nm is None:
        return
    if not is_same_voxel_size(image.voxel_size_nm, label.voxel_size_nm):
        raise VolumeError(
            f"{both}: image and label say that their voxels are {_format(image.voxel_size_nm)} and "
            f"{_format(label.voxel_size_nm)} nm, and they must be equal, correct one."
        )


def check_mask(volume: Volume, mask: Volume, *, kind: str = "image") -> None:
    """Check that `mask` can say where the labels of `volume`, which is called `kind` in errors, are annotated.

    Raises:
        VolumeError: their shapes differ, or the mask has channels.
    """
    if mask.channels not in (None, 1):
        raise VolumeError(
            f"{mask.location}: the mask has {mask.channels} channels, and must have none, save one of them alone as "
            "(z, y, x)."
        )
    if volume.shape != mask.shape:
        raise VolumeError(
            f"{volume.location} and {mask.location}: {kind} and mask have the shapes {volume.shape} and {mask.shape}, "
            "and they must be equal."
        )
