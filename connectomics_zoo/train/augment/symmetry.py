"""Flips, and turns by 90 degrees that keep shape and voxel size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import Sample, happens

SAME_SIZE = 0.1
"""Two voxel edges that differ by at most this fraction count as equal."""

TILE = 16
"""Edge along z and x of the tiles that a turned patch is copied by, so that what a tile touches stays in the cache."""


def rotation_planes(
    patch_size: tuple[int, ...], voxel_size_nm: tuple[float, ...] | None
) -> tuple[tuple[int, int], ...]:
    """Return the pairs of axes in which a rotation by 90 degrees keeps patch shape and voxel size.

    Where the voxel size is unknown, only the plane of a section (y, x) is taken to be isotropic.
    """
    planes = []
    for first, second in ((1, 2), (0, 1), (0, 2)):
        if _is_same_size(first, second, voxel_size_nm) and patch_size[first] == patch_size[second]:
            planes.append((first, second))
    return tuple(planes)


def is_isotropic(voxel_size_nm: tuple[float, ...] | None) -> bool:
    """Return whether sections may be looked at along any axis; where the voxel size is unknown, they may not."""
    return all(_is_same_size(first, second, voxel_size_nm) for first, second in ((1, 2), (0, 1), (0, 2)))


def _is_same_size(first: int, second: int, voxel_size_nm: tuple[float, ...] | None) -> bool:
    if voxel_size_nm is None:
        return (first, second) == (1, 2)
    return abs(voxel_size_nm[first] - voxel_size_nm[second]) <= SAME_SIZE * voxel_size_nm[second]


def flip_and_turn(
    sample: Sample,
    *,
    spec: AugmentationSpec,
    voxel_size_nm: tuple[float, ...] | None,
    generator: np.random.Generator,
) -> Sample:
    """Return a contiguous copy of `sample`, flipped and turned."""
    arrays = [array if array.ndim == 4 else array[np.newaxis] for array in sample]
    for axis in (1, 2, 3):
        if happens(spec.flip, generator):
            arrays = [np.flip(array, axis) for array in arrays]
    for first, second in rotation_planes(sample.labels.shape[-3:], voxel_size_nm):
        if happens(spec.turn, generator):
            turns = int(generator.integers(4))
            arrays = [np.rot90(array, turns, (first + 1, second + 1)) for array in arrays]
    image, labels, annotated = (_copy(array) for array in arrays)
    return Sample(image, labels, annotated) if sample.labels.ndim == 4 else Sample(image, labels[0], annotated[0])


def _copy(view: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous copy of a flipped and turned array (C, Z, Y, X)."""
    result = np.empty(view.shape, view.dtype)
    for z in range(0, view.shape[1], TILE):
        for x in range(0, view.shape[3], TILE):
            result[:, z : z + TILE, :, x : x + TILE] = view[:, z : z + TILE, :, x : x + TILE]
    return result
