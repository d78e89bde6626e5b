"""The labels that are exported: which volume, where it lies, and which of its objects."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.export.labels.objects import Objects
from connectomics_zoo.volumes import Box, StoredPrediction, Volume, VoxelSize, open_volume
from connectomics_zoo.volumes.label_look import without_largest
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.placement import offset_of_part
from connectomics_zoo.volumes.prediction import Content

_log = logging.getLogger(__name__)

_OFF = 0.01
"""Fraction of a voxel by which the place of a volume may be rounded without a word."""

_Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """Labels on disk; it can be pickled."""

    location: str
    """The volume, from any folder."""
    shape: _Triple
    """Its voxels (z, y, x)."""
    voxel_size_nm: VoxelSize
    """Edge lengths of a voxel (z, y, x)."""
    offset: _Triple
    """Where its first voxel lies in its world (z, y, x), in voxels."""
    dtype: str
    """`uint32`, or `uint64` where an id needs it."""
    ids: NDArray[np.uint64] | None
    """The objects, in the order of their ids; None for all that there are."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return the labels of a box (Z, Y, X), with 0 for all that is no object.

        Raises:
            VolumeError: they cannot be read.
        """
        with open_volume(self.location, voxel_size_nm=self.voxel_size_nm) as volume:
            values = without_largest(volume.read_plain(box), unlabelled=())
        if self.ids is None:
            return values.astype(self.dtype, copy=False)
        wide = values.astype(np.uint64, copy=False)  # another label may be the same number in 32 bits
        at = np.minimum(np.searchsorted(self.ids, wide), len(self.ids) - 1)
        return np.where(self.ids[at] == wide, wide, np.uint64(0)).astype(self.dtype)

    def to_nm(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return where points (N, 3) lie, (x, y, z) in nm: 0 is the centre of the first voxel, as numbers of voxels."""
        moved: NDArray[np.float64] = (points + 0.5 + np.array(self.offset)) * np.array(self.voxel_size_nm)
        return moved[:, ::-1]


def source_of(volume: Volume, objects: Objects, *, voxel_size_nm: VoxelSize, is_choice: bool) -> Source:
    """Return the labels of a volume with these objects, which are a choice or all that there are."""
    return Source(
        location=absolute(volume.location),
        shape=volume.shape,
        voxel_size_nm=voxel_size_nm,
        offset=offset_of(volume, voxel_size_nm),
        dtype="uint32" if int(objects.ids[-1]) < 2**32 else "uint64",
        ids=objects.ids if is_choice else None,
    )


def names_of(volume: Volume) -> Mapping[int, str]:
    """Return what labels are called: in a mask, 1 is what its one channel is called."""
    names = volume.class_names
    return {1: names[0]} if set(names) == {0} else names


def stored_of(volume: Volume) -> StoredPrediction:
    """Return what an export of labels says of itself: what they say, as of which model and weights they are."""
    content: Content = "label" if volume.content == "label" else "instances"
    return dataclasses.replace(volume.stored(), content=content, scale=None)


def absolute(location: str) -> str:
    """Return a location that means the same in any folder."""
    return location if "://" in location else str(Path(location).absolute())


def lies_at(volume: Volume, voxel_size_nm: VoxelSize) -> Offset:
    """Return where the first voxel of a volume lies (z, y, x) in nm, itself or in what it is a part of."""
    first = (0, 0, 0) if volume.placement is None or volume.offset_nm is not None else volume.placement.box.start
    return offset_of_part(first, voxel_size_nm=voxel_size_nm, whole_offset_nm=volume.offset_nm)


def offset_of(volume: Volume, voxel_size_nm: VoxelSize) -> _Triple:
    """Return where the first voxel of a volume lies (z, y, x), in whole voxels, as precomputed volumes count."""
    lies = lies_at(volume, voxel_size_nm)
    exact = [begin / edge for begin, edge in zip(lies, voxel_size_nm, strict=True)]
    z, y, x = (round(number) for number in exact)
    if any(abs(number - whole) > _OFF for number, whole in zip(exact, (z, y, x), strict=True)):
        _log.warning(
            "%s: lies at (%s) nm, which is no whole number of voxels, and is moved to (%s) nm.",
            volume.location,
            ", ".join(f"{begin:g}" for begin in lies),
            ", ".join(f"{whole * edge:g}" for whole, edge in zip((z, y, x), voxel_size_nm, strict=True)),
        )
    return z, y, x
