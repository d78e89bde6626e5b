"""Blocks: each voxel in one of them, numbered as they lie, and their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.volumes.box import Box

GRID = BlockGrid(Box((3, 0, 10), (20, 13, 31)), (8, 5, 7))


def test_every_voxel_is_in_one_block():
    seen = np.zeros((20, 13, 31), dtype=int)
    for index in range(len(GRID)):
        seen[GRID.box_of(index).slices] += 1
    assert (seen[GRID.box.slices] == 1).all()
    assert seen.sum() == GRID.box.voxels
    assert GRID.counts == (3, 3, 3)
    assert GRID.box_of(0) == Box((3, 0, 10), (11, 5, 17))
    assert GRID.box_of(26) == Box((19, 10, 24), (20, 13, 31))


def test_blocks_are_numbered_in_the_order_of_their_first_voxels():
    starts = [GRID.box_of(index).start for index in range(len(GRID))]
    assert starts == sorted(starts)
    with pytest.raises(IndexError):
        GRID.position(27)


def test_the_block_behind_a_face_begins_where_the_other_ends():
    for index in range(len(GRID)):
        for axis in range(3):
            following = GRID.following(index, axis)
            if following is None:
                assert GRID.box_of(index).stop[axis] == GRID.box.stop[axis]
            else:
                assert GRID.box_of(following).start[axis] == GRID.box_of(index).stop[axis]


@pytest.mark.parametrize("box", [Box((0, 0, 0), (4, 6, 11)), Box((11, 5, 17), (12, 6, 18)), GRID.box])
def test_the_blocks_that_a_box_touches_are_those_that_it_has_a_voxel_of(box):
    expected = [index for index in range(len(GRID)) if GRID.box_of(index).intersection(box).voxels]
    assert GRID.touching(box) == expected
    assert expected


def test_a_box_elsewhere_touches_none():
    assert GRID.touching(Box((0, 0, 0), (3, 13, 31))) == []
