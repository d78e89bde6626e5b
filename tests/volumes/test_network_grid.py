"""Network voxels of any size: equal to volumes cut into parts by hand, and independent of what is read at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from support.naive_window import naive_network, parts_along

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.area import Cover, average, majority
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.network_grid import NetworkGrid
from connectomics_zoo.volumes.ratios import ratio_between, ratios_between
from connectomics_zoo.volumes.resample import downsample_image, downsample_labels, downsample_mask

RATIOS = [
    (1, Fraction(23, 5), Fraction(184, 61)),
    (Fraction(5, 4), Fraction(3, 2), 2),
    (1, Fraction(23, 25), Fraction(4, 5)),
    (Fraction(1, 3), Fraction(5, 2), 1),
    (Fraction(7, 5), Fraction(2, 3), Fraction(11, 10)),
]
SHAPE = (9, 23, 31)


def parts_of(array, ratios):
    """For each network voxel, the voxels that it covers, each as often as it has parts in it."""
    cut = array
    for axis in (2, 1, 0):
        cut = parts_along(cut, axis, Fraction(ratios[axis]))
    # (Z, parts, Y, parts, X, parts)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(*cut.shape[::2], -1)


def centre_of(array, ratios):
    """The voxel that the centre of each network voxel lies in."""
    for axis, ratio in enumerate(ratios):
        count = math.ceil(array.shape[axis] / ratio)
        index = [min(math.floor((n + Fraction(1, 2)) * ratio), array.shape[axis] - 1) for n in range(count)]
        array = array.take(index, axis=axis)
    return array


@pytest.mark.parametrize("ratios", RATIOS)
def test_images_are_means_by_area_where_network_voxels_are_larger_and_interpolated_where_they_are_smaller(ratios):
    array = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    grid = NetworkGrid(SHAPE, ratios)
    image = grid.image(array, grid.whole)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [naive_network(one, ratios) for one in array], atol=1e-6)


def test_upwards_it_is_what_scipy_interpolates_linearly():
    array = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    ratios = (Fraction(4, 5), Fraction(23, 25), Fraction(1, 3))
    grid = NetworkGrid(SHAPE, ratios)
    places = [
        (np.arange(count) + 0.5) * float(ratio) - 0.5 for count, ratio in zip(grid.whole.shape, ratios, strict=True)
    ]
    expected = map_coordinates(array, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(grid.image(array[None], grid.whole)[0], expected, atol=1e-5)


@pytest.mark.parametrize("ratios", [RATIOS[0], RATIOS[1]])
@pytest.mark.parametrize("labels", [2, 3, 40])
def test_labels_are_majorities_by_area_and_the_smallest_of_equals(ratios, labels):
    array = np.random.default_rng(labels).integers(0, labels, SHAPE).astype(np.uint64)
    array[:3, :9] = labels - 1
    grid = NetworkGrid(SHAPE, ratios)
    found = grid.labels(array, grid.whole)
    assert found.dtype == array.dtype
    parts = parts_of(array, ratios)
    for index in np.ndindex(found.shape):
        values, counts = np.unique(parts[index][~np.isnan(parts[index])], return_counts=True)
        assert found[index] == values[np.argmax(counts)], index


def test_labels_of_64_bits_keep_every_bit():
    array = np.full((1, 4, 4), 2**64 - 1, dtype=np.uint64)
    array[0, :2, :2] = 2**64 - 3
    array[0, 2, 2] = 2**64 - 2
    grid = NetworkGrid(array.shape, (1, Fraction(3, 2), Fraction(3, 2)))
    top = 2**64
    assert grid.labels(array, grid.whole).tolist() == [
        [[top - 3, top - 1, top - 1], [top - 1, top - 2, top - 1], [top - 1] * 3]
    ]


def test_labels_upwards_are_those_of_the_voxel_at_the_centre():
    array = np.random.default_rng(2).integers(0, 9, SHAPE)
    ratios = (Fraction(1, 3), Fraction(23, 25), Fraction(4, 5))
    grid = NetworkGrid(SHAPE, ratios)
    np.testing.assert_array_equal(grid.labels(array, grid.whole), centre_of(array, ratios))


@pytest.mark.parametrize("ratios", RATIOS)
def test_a_network_voxel_is_annotated_where_all_that_it_covers_is(ratios):
    array = np.random.default_rng(3).random(SHAPE) < 0.9
    grid = NetworkGrid(SHAPE, ratios)
    parts = parts_of(array, ratios)
    expected = np.where(np.isnan(parts), 1, parts).all(axis=-1)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(grid.mask(array, grid.whole), expected)


@pytest.mark.parametrize("ratios", RATIOS)
def test_what_is_read_at_a_time_changes_no_bit(ratios):
    generator = np.random.default_rng(4)
    image = generator.random((1, *SHAPE), dtype=np.float32)
    labels, mask = generator.integers(0, 4, SHAPE), generator.random(SHAPE) < 0.95
    grid = NetworkGrid(SHAPE, ratios)
    whole = grid.whole
    everything = grid.image(image, whole)[0], grid.labels(labels, whole), grid.mask(mask, whole)
    for _ in range(40):
        limits = [sorted(generator.choice(size + 1, 2, replace=False).tolist()) for size in whole.shape]
        box = Box.of_ranges(tuple(pair) for pair in limits)
        part = grid.volume_box(box).slices
        found = (
            grid.image(image[(slice(None), *part)], box)[0],
            grid.labels(labels[part], box),
            grid.mask(mask[part], box),
        )
        for one, other in zip(everything, found, strict=True):
            assert np.array_equal(one[box.slices], other)


@pytest.mark.parametrize("ratios", RATIOS)
def test_a_region_is_read_alone(ratios):
    image = np.random.default_rng(5).random((1, *SHAPE), dtype=np.float32)
    region = Box((2, 5, 4), (8, 20, 29))
    beyond = image.copy()
    beyond[(slice(None), *region.slices)] = np.nan
    beyond = np.where(np.isnan(beyond), image, np.float32(7e7))
    grid = NetworkGrid(SHAPE, ratios)
    box = grid.inside(region)
    assert box.voxels > 0
    part = grid.volume_box(box, within=region)
    assert region.contains(part)
    values = grid.image(beyond[(slice(None), *part.slices)], box, within=region)
    assert values.max() <= 1
    assert all(
        region.start[axis] <= box.start[axis] * ratio and box.stop[axis] * ratio <= region.stop[axis]
        for axis, ratio in enumerate(ratios)
    )


def test_grey_values_stay_in_0_to_1():
    grid = NetworkGrid(SHAPE, RATIOS[4])
    assert (grid.image(np.ones((1, *SHAPE), np.float32), grid.whole) == 1).all()
    near = np.random.default_rng(6).uniform(0.999999, 1, (1, *SHAPE)).astype(np.float32)
    assert grid.image(near, grid.whole).max() <= 1


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 4, 4), (2, 3, 5)])
def test_whole_ratios_are_blocks_bit_by_bit(factors):
    generator = np.random.default_rng(7)
    image = generator.random((2, *SHAPE), dtype=np.float32)
    labels, mask = generator.integers(0, 5, SHAPE), generator.random(SHAPE) < 0.9
    grid = NetworkGrid(SHAPE, ratios_between(tuple(4.6 * f for f in factors), (4.6, 4.6, 4.6), location="a volume"))
    assert grid.ratios == factors
    box = grid.whole
    assert np.array_equal(grid.image(image, box), np.stack([downsample_image(one, factors) for one in image]))
    assert np.array_equal(grid.labels(labels, box), downsample_labels(labels, factors))
    assert np.array_equal(grid.mask(mask, box), downsample_mask(mask, factors))


def test_blocks_are_a_case_of_areas():
    generator = np.random.default_rng(8)
    image, labels = generator.random((8, 15, 20), dtype=np.float32), generator.integers(0, 5, (8, 15, 20))
    covers = [
        Cover(np.arange(size).reshape(-1, factor), np.ones((size // factor, factor), np.int64))
        for size, factor in zip(image.shape, (2, 3, 5), strict=True)
    ]
    np.testing.assert_allclose(average(image, covers), downsample_image(image, (2, 3, 5)), atol=1e-6)
    assert np.array_equal(majority(labels, covers), downsample_labels(labels, (2, 3, 5)))


@pytest.mark.parametrize(
    ("network", "volume", "ratio"),
    [
        (18.4, 4.6, 4),
        (18.4, 4.6000001, 4),
        (18.4, 4.64, 4),
        (18.4, 4.66, Fraction(18.4 / 4.66).limit_denominator(1000)),
        (18.4, 4.0, Fraction(23, 5)),
        (4.6, 5.0, Fraction(23, 25)),
        (4.6, 9.2, Fraction(1, 2)),
        (4.6, 4.56, 1),
    ],
)
def test_ratios_are_whole_where_they_nearly_are_and_fractions_elsewhere(network, volume, ratio):
    found = ratio_between(network, volume)
    assert found == ratio
    assert isinstance(found, int) == (ratio == int(ratio))


def test_voxels_that_are_far_too_large_or_small_are_refused():
    with pytest.raises(
        VolumeError, match=r"raw\.h5: has voxels of 1 x 0.1 x 4 nm .* 50 x 18 x 18 nm: an edge may be 64"
    ):
        ratios_between((50, 18, 18), (1, 0.1, 4), location="raw.h5")
    with pytest.raises(VolumeError, match="or 8 times longer, correct the one that is wrong"):
        ratios_between((50, 18, 18), (50, 200, 200), location="raw.h5")


@pytest.mark.parametrize("ratios", [(1, 2, 2), (1, Fraction(3, 2), 1)])
def test_labels_that_are_numbers_in_0_to_1_are_averaged(ratios):
    labels = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32)
    grid = NetworkGrid(labels.shape, ratios)
    np.testing.assert_array_equal(grid.labels(labels, grid.whole), grid.image(labels[np.newaxis], grid.whole)[0])
    np.testing.assert_allclose(grid.labels(labels, grid.whole).mean(), labels.mean(), rtol=1e-6)
