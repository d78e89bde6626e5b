"""Between the voxels of a volume and the coarser ones of a network: block means, majorities, interpolation.

One network voxel covers a block of `factors` (z, y, x) volume voxels; at the far edge of a volume a block may be
cut, and what is there of it counts. A block depends on its own voxels alone, so any region whose bounds are
multiples of the factors resamples as the whole volume does.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from connectomics_zoo.volumes.ratios import Ratio

Factors = tuple[int, int, int]


def downsample_image(array: NDArray[Any], factors: Factors) -> NDArray[np.float32]:
    """Return the mean of each block of `array` (Z, Y, X), as float32 (ceil(Z / fz), ceil(Y / fy), ceil(X / fx)).

    Where no axis has a factor above 1, that is `array` itself if it is float32 already.
    """
    if max(factors) == 1:
        return array.astype(np.float32, copy=False)
    result = _combine(np.add, array, factors, dtype=np.float32)
    # One division, after all sums: every voxel of a block must have the same weight.
    result /= _block_sizes(array.shape, factors)
    return result


def _block_sizes(shape: tuple[int, ...], factors: Factors) -> NDArray[np.float32]:
    """Return how many voxels there are in each block."""
    z, y, x = (
        np.minimum(factor, size - np.arange(0, size, factor)).astype(np.float32)
        for size, factor in zip(shape, factors, strict=True)
    )
    return z[:, None, None] * y[:, None] * x


def downsample_labels(array: NDArray[Any], factors: Factors) -> NDArray[Any]:
    """Return the most frequent label of each block of `array` (Z, Y, X); of equally frequent ones the smallest.

    Args:
        array: bool or whole numbers.
        factors: volume voxels per block (z, y, x).
    """
    if max(factors) == 1:
        return array
    if array.min() >= 0 and array.max() <= 1:
        # The smallest type that holds a whole block is the fastest.
        counts = _combine(np.add, array, factors, dtype=np.min_scalar_type(math.prod(factors)))
        majority: NDArray[Any] = (counts > _block_sizes(array.shape, factors) / 2).astype(array.dtype)
        return majority
    smallest = _combine(np.minimum, array, factors, dtype=array.dtype)
    mixed = smallest != _combine(np.maximum, array, factors, dtype=array.dtype)
    axes = [_equal_blocks(size, factor) for size, factor in zip(array.shape, factors, strict=True)]
    for parts in itertools.product(*axes):
        voxels, numbers, lengths = zip(*parts, strict=True)
        chosen = mixed[numbers]
        if chosen.any():
            z, y, x = chosen.shape
            split = array[voxels].reshape(z, lengths[0], y, lengths[1], x, lengths[2])
            blocks = split.transpose(0, 2, 4, 1, 3, 5)[chosen].reshape(-1, math.prod(lengths))
            smallest[numbers][chosen] = _modes(blocks)
    return smallest


def downsample_mask(array: NDArray[np.bool_], factors: Factors) -> NDArray[np.bool_]:
    """Return for each block of `array` (Z, Y, X) whether all of its voxels are True."""
    return _combine(np.logical_and, array, factors, dtype=np.bool_)


def _combine(function: np.ufunc, array: NDArray[Any], factors: Factors, *, dtype: DTypeLike) -> NDArray[Any]:
    """Return `function` over each block, as `dtype`: of whole slices of the array, which is several times faster."""
    array = array.astype(dtype, copy=False)
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        slices = array.swapaxes(0, axis)
        result = slices[::factor].copy(order="K")
        for first in range(1, min(factor, len(slices))):
            part = slices[first::factor]
            target = result[: len(part)]
            function(target, part, out=target)
        array = result.swapaxes(0, axis)
    return array


def _modes(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return the most frequent value of each row of `blocks`; of equally frequent ones the smallest."""
    blocks = np.sort(blocks, axis=1)
    position = np.arange(blocks.shape[1], dtype=np.int32)
    starts = np.zeros(blocks.shape, dtype=np.int32)
    starts[:, 1:] = np.where(blocks[:, 1:] != blocks[:, :-1], position[1:], 0)
    np.maximum.accumulate(starts, axis=1, out=starts)
    longest = (position - starts).argmax(axis=1)  # the first of equally long runs
    modes: NDArray[Any] = np.take_along_axis(blocks, longest[:, np.newaxis], axis=1)[:, 0]
    return modes


def _equal_blocks(size: int, factor: int) -> list[tuple[slice, slice, int]]:
    """Divide an axis into whole blocks and the cut one: voxels, numbers of their blocks, and a block's length."""
    whole, rest = divmod(size, factor)
    parts = [
        (slice(whole * factor), slice(whole), factor),
        (slice(whole * factor, None), slice(whole, None), rest),
    ]
    return [part for part, present in zip(parts, (whole, rest), strict=True) if present]


def interpolate(
    array: NDArray[np.float32],
    *,
    axis: int,
    first: int,
    stop: int,
    factor: Ratio,
    offset: int,
    size: int,
    low: int = 0,
) -> NDArray[np.float32]:
    """Return the finer voxels [first, stop) along `axis`, linearly between the centres of coarser ones.

    Before the first centre and after the last one it is constant. It is linear and not cubic, which overshoots at
    edges, leaves 0..1 and needs twice the neighbours.

    Args:
        array: values at the coarser voxels [offset, offset + array.shape[axis]).
        axis: the axis of `array`.
        first: first finer voxel.
        stop: one past the last one.
        factor: finer voxels per coarser one.
        offset: coarser voxel that `array` begins with.
        size: one past the last coarser voxel that there is.
        low: the first coarser voxel that there is.
    """
    if factor == 1:
        return array[(slice(None),) * axis + (slice(first - offset, stop - offset),)]
    if isinstance(factor, int):
        position = (np.arange(first, stop) + 0.5) / factor - 0.5
        lower = np.floor(position).astype(np.int64)
        share = (position - lower).astype(np.float32)
    else:
        lower, rest = divmod(
            (2 * np.arange(first, stop) + 1) * factor.denominator - factor.numerator, 2 * factor.numerator
        )
        share = (rest / (2 * factor.numerator)).astype(np.float32)
    below = array.take(np.clip(lower, low, size - 1) - offset, axis=axis)
    above = array.take(np.clip(lower + 1, low, size - 1) - offset, axis=axis)
    # In place: below + share * (above - below)
    above -= below
    above *= share.reshape([-1 if index == axis else 1 for index in range(array.ndim)])
    above += below
    return above
