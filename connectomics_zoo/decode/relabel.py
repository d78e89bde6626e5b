"""From groups of fragments to objects 1..N without a gap, of which none is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.graph import Groups


def number_groups(groups: Groups) -> tuple[NDArray[np.int64], int]:
    """Return the number 1..N of each node's group in the order of their first nodes, 0 for node 0; and N.

    Node 0 is the background, and in a group of its own.
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse], len(first) - 1


def number_objects(groups: Groups, voxels: NDArray[np.int64], *, minimum: int) -> tuple[NDArray[Any], int]:
    """Return the object 1..N of each node, 0 for background and for those of less than `minimum` voxels; and N.

    Args:
        groups: of each node 0..N.
        voxels: of each node; those of node 0 count for nothing.
        minimum: voxels of the smallest object.
    """
    numbers, count = number_groups(groups)
    sizes = np.bincount(numbers, weights=voxels, minlength=count + 1)
    keep = sizes >= max(1, minimum)
    keep[0] = False
    found = int(keep.sum())
    objects = np.zeros(count + 1, np.uint32 if found < 2**32 else np.uint64)
    objects[keep] = np.arange(1, found + 1)
    return objects[numbers], found
