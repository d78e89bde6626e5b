"""The distance of every voxel to the edge of its object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectomics_zoo.tasks.targets.labels import each_object

OUTSIDE = -1.0
"""The value of background."""


def edge_distances(
    labels: NDArray[Any], annotated: NDArray[np.bool_], *, voxel_size_nm: tuple[float, ...] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return for each object's voxels the distance to its edge over the largest one in it, and where that is known.

    It lies above 0 and is at most 1 in objects, and is `OUTSIDE` elsewhere. The side of a patch is no edge. Not known
    is the distance where what lies nearest is not annotated, and in an object that fills the patch.

    Args:
        labels: (Z, Y, X), 0 for background and where not annotated.
        annotated: (Z, Y, X).
        voxel_size_nm: edge lengths (z, y, x) of a voxel, None where unknown, which counts as cubes.
    """
    values = np.full(labels.shape, OUTSIDE, dtype=np.float32)
    known = annotated.copy()
    for box, inside in each_object(labels):
        if inside.all():
            values[box], known[box] = 1, False
            continue
        distances, nearest = ndimage.distance_transform_edt(inside, sampling=voxel_size_nm, return_indices=True)
        values[box][inside] = distances[inside] / distances.max()
        if not annotated[box].all():
            known[box][inside] &= annotated[box][tuple(nearest)][inside]
    return values, known
