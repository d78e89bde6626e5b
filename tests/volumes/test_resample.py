"""Block means, majorities and interpolation between volume and network voxels, and the scaling of grey values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.intensity import scale_intensity
from connectomics_zoo.volumes.ratios import complete_voxels, network_range
from connectomics_zoo.volumes.resample import (
    downsample_image,
    downsample_labels,
    interpolate,
)


def blocks(array, factors):
    """Each block by hand, as the network voxel's index and its values."""
    shape = [-(-size // factor) for size, factor in zip(array.shape, factors, strict=True)]
    for index in np.ndindex(*shape):
        yield index, array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))].ravel()


GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (1, 3, 4), (7, 5, 2), (20, 20, 20)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_image_blocks_are_means_and_cut_blocks_are_means_of_what_is_there(factors, dtype):
    array = (GENERATOR.random((7, 11, 13)) * 200).astype(dtype)
    small = downsample_image(array, factors)
    assert small.dtype == np.float32
    for index, values in blocks(array, factors):
        assert small[index] == pytest.approx(values.astype(float).mean(), rel=1e-6)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (1, 3, 4), (7, 5, 2), (2, 3, 3)])
@pytest.mark.parametrize("labels", [2, 3, 40])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_label_blocks_are_majorities_and_the_smallest_of_equals(factors, labels, dtype):
    array = GENERATOR.integers(0, labels, (7, 11, 13)).astype(dtype)
    array[:3] = labels - 1  # blocks of one label
    small = downsample_labels(array, factors)
    assert small.dtype == dtype
    for index, values in blocks(array, factors):
        found, counts = np.unique(values, return_counts=True)
        assert small[index] == found[np.argmax(counts)]


def test_labels_may_be_negative_huge_or_bool():
    huge = np.full((2, 2, 2), 2**64 - 1, dtype=np.uint64)
    huge[0, 0, 0] = 2**64 - 2
    assert downsample_labels(huge, (2, 2, 2)).tolist() == [[[2**64 - 1]]]
    negative = np.array([[[-1, -1, 1, 0]]])
    assert downsample_labels(negative, (1, 1, 4)).tolist() == [[[-1]]]
    half = np.array([[[True, True, False, False], [True, True, True, False]]])
    small = downsample_labels(half, (1, 1, 4))
    assert small.dtype == bool
    assert small.tolist() == [[[False], [True]]]


def test_a_block_may_hold_more_voxels_than_a_byte_counts():
    array = np.ones((1, 16, 48), np.uint8)
    array[:, 8:, 16:32] = 0
    array[:, 8:, 32:] = 0
    array[0, 8, 40] = 1
    assert downsample_labels(array, (1, 16, 16)).tolist() == [[[1, 0, 1]]]


def test_a_region_of_whole_blocks_resamples_as_the_volume_does():
    array = GENERATOR.random((20, 22, 24), dtype=np.float32)
    whole = downsample_image(array, (2, 3, 4))
    np.testing.assert_array_equal(downsample_image(array[4:12, 6:, 8:16], (2, 3, 4)), whole[2:6, 2:, 2:4])


@pytest.mark.parametrize("factor", [1, 2, 3, 5, Fraction(23, 5), Fraction(10, 9)])
@pytest.mark.parametrize("size", [1, 4, 23, 25])
def test_interpolation_is_linear_between_centres_for_every_part_of_an_axis(factor, size):
    network_size = -(-size // factor)
    values = GENERATOR.random((2, network_size), dtype=np.float32)
    centres = (np.arange(network_size) + 0.5) * float(factor) - 0.5
    expected = np.stack([np.interp(np.arange(size), centres, row) for row in values])
    for first in range(size):
        for stop in range(first + 1, size + 1):
            low, high = network_range(first, stop, factor=factor, size=network_size)
            part = interpolate(
                values[:, low:high], axis=1, first=first, stop=stop, factor=factor, offset=low, size=network_size
            )
            np.testing.assert_allclose(part, expected[:, first:stop], atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, Fraction(23, 5), Fraction(9, 10), Fraction(1, 3)])
def test_complete_voxels_need_no_later_network_voxel(factor):
    size = 50
    network_size = -(-size // factor)
    for stop in range(network_size + 1):
        complete = complete_voxels(stop, factor=factor, network_size=network_size, size=size)
        if complete:
            assert network_range(0, complete, factor=factor, size=network_size)[1] <= stop
    assert complete == size
    assert complete_voxels(5, factor=factor, network_size=network_size, size=size) >= int(4 * factor)


# Grey values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.uint8, 0, 255), (np.uint16, 0, 65535), (np.int16, -32768, 32767), (np.uint32, 0, 2**32 - 1), (bool, 0, 1)],
)
def test_whole_numbers_are_scaled_by_the_range_of_their_type(dtype, low, high):
    array = np.array([low, high], dtype=dtype)
    scaled = scale_intensity(array, dtype=array.dtype, intensity_range=None)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_a_range_becomes_0_to_1_and_what_lies_outside_is_clipped(dtype):
    array = np.array([10, 50, 100, 150, 200], dtype=dtype)
    scaled = scale_intensity(array, dtype=array.dtype, intensity_range=(50, 150))
    np.testing.assert_allclose(scaled, [0, 0, 0.5, 1, 1], atol=1e-7)


def test_wide_integers_keep_their_low_bits():
    array = np.array([2**30, 2**30 + 50, 2**30 + 100], dtype=np.uint32)
    scaled = scale_intensity(array, dtype=array.dtype, intensity_range=(2**30, 2**30 + 100))
    np.testing.assert_allclose(scaled, [0, 0.5, 1], atol=1e-6)


def test_floats_in_0_to_1_stay_and_the_input_is_not_changed():
    array = np.array([0, 0.25, 1], dtype=np.float32)
    scaled = scale_intensity(array, dtype=array.dtype, intensity_range=None)
    assert scaled.tolist() == [0, 0.25, 1]
    scale_intensity(array, dtype=array.dtype, intensity_range=(0, 2))
    assert array.tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_even_with_a_range(bad):
    array = np.array([0, bad, 1], dtype=np.float32)
    with pytest.raises(VolumeError, match="values that are NaN or infinite, replace them first"):
        scale_intensity(array, dtype=array.dtype, intensity_range=(0, 1))


@pytest.mark.parametrize("outside", [-0.5, 1.5])
def test_floats_outside_0_to_1_without_a_range_are_refused(outside):
    array = np.array([0, outside], dtype=np.float64)
    with pytest.raises(VolumeError, match=r"is float64 with values from .* give data\.intensity_range=\[low,high\]"):
        scale_intensity(array, dtype=array.dtype, intensity_range=None)
