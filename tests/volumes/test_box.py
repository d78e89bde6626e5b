"""A box of voxels is what numpy slicing makes of it, and a region is one box inside a volume or refused."""

from __future__ import annotations

import itertools
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import Region
from connectomics_zoo.volumes.box import Box, parse_region, region_box

SHAPE = (20, 30, 40)


def triples(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


boxes = st.builds(Box.of_shape, triples(0, 6), start=triples(-5, 5))


def voxels_of(box):
    return set(itertools.product(*(range(*limits) for limits in box.ranges)))


# The type


@given(boxes)
def test_a_box_is_a_value(box):
    again = pickle.loads(pickle.dumps(box))
    assert again == box
    assert hash(again) == hash(box)
    with pytest.raises(AttributeError):
        box.start = (0, 0, 0)


def test_a_box_does_not_end_before_it_begins():
    with pytest.raises(AssertionError, match=re.escape("stop=(4, 1, 9)")):
        Box((0, 2, 0), (4, 1, 9))


@given(boxes)
def test_its_shape_counts_its_voxels(box):
    assert len(voxels_of(box)) == box.voxels
    assert Box.of_shape(box.shape, start=box.start) == box == Box.of_ranges(box.ranges)


def test_its_slices_take_its_voxels_out_of_an_array():
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    np.testing.assert_array_equal(array[Box((1, 0, 2), (3, 5, 4)).slices], array[1:3, :, 2:4])


@given(boxes, boxes)
def test_an_intersection_has_the_voxels_that_both_have(one, other):
    assert voxels_of(one.intersection(other)) == voxels_of(one) & voxels_of(other)


@given(boxes, boxes)
def test_boxes_overlap_where_both_have_a_voxel(one, other):
    assert one.overlaps(other) == bool(voxels_of(one) & voxels_of(other))


@given(boxes, boxes.filter(lambda box: box.voxels))
def test_a_box_contains_what_has_no_other_voxels(one, other):
    assert one.contains(other) == (voxels_of(other) <= voxels_of(one))
    assert one.contains(one)


@given(boxes, triples(-9, 9))
def test_a_box_that_is_moved_comes_back(box, step):
    assert box.moved(step).relative_to(step) == box
    assert voxels_of(box.moved(step)) == {tuple(map(sum, zip(voxel, step, strict=True))) for voxel in voxels_of(box)}


@given(boxes, triples(1, 4))
def test_a_scaled_box_holds_a_block_for_each_voxel(box, factors):
    fine = voxels_of(box.scaled(factors))
    assert len(fine) == box.voxels * np.prod(factors)
    assert {tuple(at // factor for at, factor in zip(voxel, factors, strict=True)) for voxel in fine} == voxels_of(box)


@given(boxes, triples(0, 7))
def test_its_middle_is_as_large_as_asked_and_has_as_much_on_either_side(box, most):
    middle = box.middle(most)
    assert box.contains(middle)
    assert middle.shape == tuple(map(min, box.shape, most))
    for (first, stop), (low, high) in zip(box.ranges, middle.ranges, strict=True):
        assert low - first in (stop - high, stop - high - 1)


def test_other_voxels_along_one_axis_leave_the_rest():
    assert Box.of_shape(SHAPE).replace(z=(13, 14), x=(-2, 0)) == Box((13, 0, -2), (14, 30, 0))


# Regions


@given(triples(0, 18), triples(1, 20))
def test_what_a_box_is_called_is_the_region_that_it_is(start, shape):
    box = Box.of_shape(shape, start=start)
    assert region_box(str(box), shape=(40, 40, 40), location="a.h5") == box


def test_regions_are_filled_up():
    assert region_box("z=13:16", shape=SHAPE, location="a.h5") == Box((13, 0, 0), (16, 30, 40))
    assert region_box("x=1:2, z=0:20", shape=SHAPE, location="a.h5") == Box((0, 0, 1), (20, 30, 2))
    assert region_box(Region(y=(3, 9)), shape=SHAPE, location="a.h5") == Box((0, 3, 0), (20, 9, 40))
    assert region_box(None, shape=SHAPE, location="a.h5") == Box.of_shape(SHAPE)


def test_regions_are_filled_up_by_another_box_where_there_is_one():
    usual = Box((2, 3, 4), (5, 6, 7))
    assert region_box("y=0:9", shape=SHAPE, location="a.h5", default=usual) == usual.replace(y=(0, 9))
    assert region_box(None, shape=SHAPE, location="a.h5", default=usual) == usual


@pytest.mark.parametrize("text", ["", "13:16", "z=1:2,z=3:4", "t=1:2", "z=-1:4", "z=1:2:3", "z=1.5:2"])
def test_regions_of_another_form_are_refused(text):
    with pytest.raises(VolumeError, match="is not understood, write it as z=13:16"):
        parse_region(text)


def test_regions_that_are_empty_are_refused():
    with pytest.raises(VolumeError, match="is empty along y, give first:stop with first < stop"):
        parse_region("y=5:5")


def test_a_region_of_a_spec_that_is_empty_is_called_so():
    with pytest.raises(VolumeError, match=r"^the region x=5:5 is empty in a\.h5, which has x=0:40: give first:stop"):
        region_box(Region(x=(5, 5)), shape=SHAPE, location="a.h5")


@pytest.mark.parametrize("region", ["x=0:41", "x=40:50", Region(x=(7, 3))])
def test_regions_that_are_not_inside_are_refused_with_one_sentence(region):
    words = "is not inside a.h5, which has x=0:40: give first:stop with 0 <= first < stop <= 40."
    with pytest.raises(VolumeError, match=rf"^the region x=\d+:\d+ {re.escape(words)}$"):
        region_box(region, shape=SHAPE, location="a.h5")
