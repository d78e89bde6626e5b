"""Augments a patch: flips, rotations that keep the voxel size, gain, offset and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAME_SIZE = 0.1
"""Two voxel edges that differ by at most this fraction count as equal."""

GAIN = 0.2
OFFSET = 0.1
NOISE = 0.05
"""Ranges in units of the scaled intensity 0..1: gain 1 ± GAIN about the patch's mean, ± OFFSET, sigma up to NOISE."""

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
    targets: Array,
    *,
    mode: str,
    planes: tuple[tuple[int, int], ...],
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Return an augmented copy of a patch and its targets.

    Args:
        image: (C, Z, Y, X), intensities scaled to 0..1.
        targets: (C, Z, Y, X).
        mode: `none`, `flips` or `full`, see `TrainingSpec.augmentation`.
        planes: what `rotation_planes` gives.
        generator: source of randomness.
    """
    if mode == "none":
        return image, targets
    for axis in (1, 2, 3):
        if generator.random() < 0.5:
            image, targets = np.flip(image, axis), np.flip(targets, axis)
    for first, second in planes:
        turns = int(generator.integers(4))
        image = np.rot90(image, turns, (first + 1, second + 1))
        targets = np.rot90(targets, turns, (first + 1, second + 1))
    if mode == "full":
        image = _vary_intensity(image, generator)
    return np.ascontiguousarray(image), np.ascontiguousarray(targets)


def _vary_intensity(image: Array, generator: np.random.Generator) -> Array:
    mean = image.mean()
    gain = generator.uniform(1 - GAIN, 1 + GAIN)
    offset = generator.uniform(-OFFSET, OFFSET)
    sigma = generator.uniform(0, NOISE)
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    varied: Array = ((image - mean) * gain + mean + offset + sigma * noise).astype(np.float32)
    return varied
