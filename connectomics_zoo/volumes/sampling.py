"""The blocks of a volume that are looked at before it is used: all of a small one, a few of a large one."""

from __future__ import annotations

import math

import numpy as np

from connectomics_zoo.volumes.box import Box

BLOCK = 64
"""Edge of the blocks, in voxels of the volume."""

MOST_BLOCKS = 256
"""Blocks after which no more are looked at."""


def random_blocks(box: Box) -> tuple[list[Box], int]:
    """Return up to `MOST_BLOCKS` of the cubes that `box` divides into, in random order, and how many there are."""
    counts = [-(-edge // BLOCK) for edge in box.shape]
    total = math.prod(counts)
    numbers = np.random.default_rng(0).choice(total, min(total, MOST_BLOCKS), replace=False)
    corners = np.stack(np.unravel_index(numbers, counts), axis=1) * BLOCK + box.start
    return [Box.of_shape((BLOCK,) * 3, start=corner).intersection(box) for corner in corners.tolist()], total
