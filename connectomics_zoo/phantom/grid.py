"""The grid that a phantom is built on, and smooth noise on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import LimitError, VolumeError
from connectomics_zoo.volumes.metadata import VoxelSize

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

MINIMUM_EDGE = 8
MAXIMUM_VOXELS = 2**26
SMALLEST_VOXEL_NM = (2.0, 2.0, 2.0)
LARGEST_VOXEL_NM = (100.0, 32.0, 32.0)


@dataclass(frozen=True)
class Grid:
    """The grid that structure is built on: `cuts` planes for each section."""

    shape: tuple[int, int, int]
    spacing_nm: tuple[float, float, float]
    cuts: int


def plan_grid(shape: tuple[int, int, int], *, voxel_size_nm: VoxelSize) -> Grid:
    """Return the grid for a phantom, with up to four planes for sections thicker than pixels are wide."""
    if len(shape) != 3 or min(shape) < MINIMUM_EDGE:
        raise VolumeError(f"a phantom of shape {shape} is too small, give three edges from {MINIMUM_EDGE} voxels up.")
    limits = zip(SMALLEST_VOXEL_NM, voxel_size_nm, LARGEST_VOXEL_NM, strict=False)
    if len(voxel_size_nm) != 3 or not all(low <= length <= high for low, length, high in limits):
        raise VolumeError(
            f"a phantom with voxel_size_nm {voxel_size_nm} would show no cells, give three lengths from "
            f"{SMALLEST_VOXEL_NM} to {LARGEST_VOXEL_NM}."
        )
    z, y, x = voxel_size_nm
    cuts = min(4, max(1, round(z / max(y, x))))
    fine = (shape[0] * cuts, shape[1], shape[2])
    if math.prod(fine) > MAXIMUM_VOXELS:
        raise LimitError(
            f"a phantom of shape {shape} needs {math.prod(fine)} voxels, at most {MAXIMUM_VOXELS} are made, "
            "give a smaller shape."
        )
    return Grid(shape=fine, spacing_nm=(z / cuts, y, x), cuts=cuts)


def smooth_noise(rng: np.random.Generator, *, grid: Grid, scale_nm: float) -> Floats:
    """Return smooth noise of about unit variance whose features are `scale_nm` wide (uniform cubic splines)."""
    knots = [math.ceil(length / scale_nm) + 4 for length in np.array(grid.shape) * np.array(grid.spacing_nm)]
    field = rng.standard_normal(knots).astype(np.float32)
    for axis, (size, spacing) in enumerate(zip(grid.shape, grid.spacing_nm, strict=True)):
        position = np.arange(size) * (spacing / scale_nm) + rng.uniform()
        first = np.floor(position).astype(int)
        t = (position - first).astype(np.float32)
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        broadcast = [1, 1, 1]
        broadcast[axis] = size
        terms = (
            weight.reshape(broadcast) / 6 * np.take(field, first + step, axis=axis)
            for step, weight in enumerate(weights)
        )
        field = sum(terms, start=np.float32(0))
    # A cubic spline through white noise keeps about 0.48 of its variance along each axis.
    return np.asarray(field * np.float32(0.48**-1.5), dtype=np.float32)
