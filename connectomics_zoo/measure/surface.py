"""Areas from counts of faces in thirteen directions, by Crofton's formula.

A line of a direction that is drawn by chance crosses a surface as often as the surface is large as seen from there, and
the mean over all directions is half of its area. Here the lines go through voxels and their neighbours along faces,
edges and corners, and cross where the object ends between two of them; directions count as much as there are points of
the sphere nearest to them (Legland, Kiêu & Devaux: Computation of Minkowski measures on 2D and 3D binary images, Image
Analysis & Stereology 26, 2007). The counts are whole numbers, which add up over blocks. Unlike the area of a mesh
around the voxels, it does not count their steps.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes import VoxelSize

DIRECTIONS = tuple(step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0))
"""Steps (z, y, x) to thirteen neighbours of a voxel, of which the other thirteen are the opposite ones."""

FACES = tuple(index for index, step in enumerate(DIRECTIONS) if sum(map(abs, step)) == 1)
"""The directions in which neighbours have a face in common."""


def crossing_areas(voxel_size_nm: VoxelSize) -> NDArray[np.float64]:
    """Return the area (nm²) that a crossing in each of `DIRECTIONS` stands for."""
    from scipy.spatial import SphericalVoronoi

    steps = np.array(DIRECTIONS) * np.array(voxel_size_nm)
    lengths = np.linalg.norm(steps, axis=1)
    points = steps / lengths[:, np.newaxis]
    cells = SphericalVoronoi(np.concatenate([points, -points])).calculate_areas()
    shares = (cells[: len(steps)] + cells[len(steps) :]) / cells.sum()
    areas: NDArray[np.float64] = 2 * shares * np.prod(voxel_size_nm) / lengths
    return areas
