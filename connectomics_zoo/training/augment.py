"""Augments a patch: flips, rotations that keep the voxel size, gain, offset and noise."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SAME_SIZE = 0.1
"""Two voxel edges that differ by at most this fraction count as equal."""

GAIN = 0.2
OFFSET = 0.1
NOISE = 0.05
"""Ranges in units of the scaled intensity 0..1: gain 1 ± GAIN about the patch's mean, ± OFFSET, sigma up to NOISE."""

TILE = 16
"""Edge along z and x of the tiles that a turned patch is copied by, so that what a tile touches stays in the cache."""

QUANTILES = 2**16
"""Values that the noise takes: as many as a uint16 can choose from, several times faster than exact ones."""

Array = NDArray[np.float32]


def rotation_planes(
    patch_size: tuple[int, ...], voxel_size_nm: tuple[float, ...] | None
) -> tuple[tuple[int, int], ...]:
    """Return the pairs of axes in which a rotation by 90 degrees keeps patch shape and voxel size.

    Where the voxel size is unknown, only the plane of a section (y, x) is taken to be isotropic.
    """
    planes = []
    for first, second in ((1, 2), (0, 1), (0, 2)):
        if voxel_size_nm is None:
            isotropic = (first, second) == (1, 2)
        else:
            isotropic = abs(voxel_size_nm[first] - voxel_size_nm[second]) <= SAME_SIZE * voxel_size_nm[second]
        if isotropic and patch_size[first] == patch_size[second]:
            planes.append((first, second))
    return tuple(planes)


def augment(
    image: Array,
    labels: NDArray[Any],
    annotated: NDArray[np.bool_],
    *,
    mode: str,
    planes: tuple[tuple[int, int], ...],
    generator: np.random.Generator,
) -> tuple[Array, NDArray[Any], NDArray[np.bool_]]:
    """Return an augmented copy of a patch and its labels; in mode `none`, the arrays themselves.

    Args:
        image: (C, Z, Y, X), intensities scaled to 0..1.
        labels: (Z, Y, X).
        annotated: (Z, Y, X), False where the label is not known.
        mode: `none`, `flips` or `full`, see `TrainingSpec.augmentation`.
        planes: what `rotation_planes` gives.
        generator: source of randomness.
    """
    if mode == "none":
        return image, labels, annotated
    arrays: tuple[NDArray[Any], ...] = (image, labels[np.newaxis], annotated[np.newaxis])
    for axis in (1, 2, 3):
        if generator.random() < 0.5:
            arrays = tuple(np.flip(array, axis) for array in arrays)
    for first, second in planes:
        turns = int(generator.integers(4))
        arrays = tuple(np.rot90(array, turns, (first + 1, second + 1)) for array in arrays)
    image, (labels,), (annotated,) = (_copy(array) for array in arrays)
    if mode == "full":
        _vary_intensity(image, generator)
    return image, labels, annotated


def _copy(view: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous copy of a flipped and turned array (C, Z, Y, X)."""
    result = np.empty(view.shape, view.dtype)
    for z in range(0, view.shape[1], TILE):
        for x in range(0, view.shape[3], TILE):
            result[:, z : z + TILE, :, x : x + TILE] = view[:, z : z + TILE, :, x : x + TILE]
    return result


def _vary_intensity(image: Array, generator: np.random.Generator) -> None:
    """Change gain, offset and noise of `image` (C, Z, Y, X) in place."""
    mean = float(image.mean())
    gain = generator.uniform(1 - GAIN, 1 + GAIN)
    offset = generator.uniform(-OFFSET, OFFSET)
    sigma = generator.uniform(0, NOISE)
    values = sigma * _normal_quantiles() + np.float32(mean - gain * mean + offset)
    image *= np.float32(gain)
    for section in image.reshape(-1, *image.shape[2:]):
        section += values.take(generator.integers(QUANTILES, size=section.shape, dtype=np.uint16))


@cache
def _normal_quantiles() -> Array:
    """The quantiles of the standard normal distribution at the middles of `QUANTILES` equal parts."""
    shares = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    quantiles: Array = torch.special.ndtri(shares).float().numpy()
    return quantiles
