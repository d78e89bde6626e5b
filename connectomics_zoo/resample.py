"""Between the voxels of a volume and the coarser ones of a network: block means, majorities, interpolation.

One network voxel covers a block of `factors` (z, y, x) volume voxels; at the far edge of a volume a block may be
cut, and what is there of it counts. A block depends on its own voxels alone, so any region whose bounds are
multiples of the factors resamples as the whole volume does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Factors = tuple[int, int, int]


def downsample_image(array: NDArray[Any], factors: Factors) -> NDArray[np.float32]:
    """Return the mean of each block of `array` (Z, Y, X), as float32 (ceil(Z / fz), ceil(Y / fy), ceil(X / fx))."""
    result = array.astype(np.float32)
    if max(factors) == 1:
        return result
    for axis, factor in enumerate(factors):
        if factor > 1:
            result = np.add.reduceat(result, np.arange(0, result.shape[axis], factor), axis=axis)
    counts = [_block_lengths(size, factor) for size, factor in zip(array.shape, factors, strict=True)]
    # One division, after all sums: a majority must see an exact half.
    result /= np.multiply.outer(np.multiply.outer(counts[0], counts[1]), counts[2])
    return result


def _block_lengths(size: int, factor: int) -> NDArray[np.float32]:
    starts = np.arange(0, size, factor)
    return (np.minimum(starts + factor, size) - starts).astype(np.float32)


def downsample_labels(array: NDArray[Any], factors: Factors) -> NDArray[Any]:
    """Return the most frequent label of each block of `array` (Z, Y, X); of equally frequent ones the smallest.

    Args:
        array: bool or whole numbers.
        factors: volume voxels per block (z, y, x).
    """
    if all(factor == 1 for factor in factors):
        return array
    smallest = _reduce(np.minimum, array, factors)
    largest = _reduce(np.maximum, array, factors)
    mixed = smallest != largest
    if not mixed.any():
        return smallest
    if smallest.min() >= 0 and largest.max() <= 1:
        majority: NDArray[Any] = (downsample_image(array, factors) > 0.5).astype(array.dtype)
        return majority
    smallest[mixed] = _modes(array, factors, mixed)
    return smallest


def _reduce(function: np.ufunc, array: NDArray[Any], factors: Factors) -> NDArray[Any]:
    for axis, factor in enumerate(factors):
        array = function.reduceat(array, np.arange(0, array.shape[axis], factor), axis=axis)
    return array


def _modes(array: NDArray[Any], factors: Factors, mixed: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the modes of the `mixed` blocks, in their order: count the pairs (block, label), take the largest."""
    numbers = np.full(mixed.shape, -1, dtype=np.int64)
    numbers[mixed] = np.arange(np.count_nonzero(mixed))
    for axis, factor in enumerate(factors):
        numbers = np.repeat(numbers, factor, axis=axis)
    numbers = numbers[tuple(slice(size) for size in array.shape)]
    inside = numbers >= 0
    blocks, labels = numbers[inside], array[inside]
    order = np.lexsort((labels, blocks))
    blocks, labels = blocks[order], labels[order]
    starts = np.flatnonzero(np.append(True, (blocks[1:] != blocks[:-1]) | (labels[1:] != labels[:-1])))
    counts = np.diff(np.append(starts, blocks.size))
    blocks, labels = blocks[starts], labels[starts]
    order = np.lexsort((labels, -counts, blocks))
    blocks, labels = blocks[order], labels[order]
    best: NDArray[Any] = labels[np.append(True, blocks[1:] != blocks[:-1])]
    return best


def lower_neighbour(voxel: int, factor: int) -> int:
    """Return the network voxel at or before the centre of a volume's `voxel` along one axis (-1 before the first).

    The centre of network voxel n lies at (n + 0.5) * factor - 0.5, in volume voxels.
    """
    return voxel if factor == 1 else (2 * voxel + 1 - factor) // (2 * factor)


def network_range(first: int, stop: int, *, factor: int, size: int) -> tuple[int, int]:
    """Return the network voxels [first, stop) that the volume's voxels [first, stop) are interpolated from.

    Args:
        first: first voxel of the volume.
        stop: one past its last voxel.
        factor: volume voxels per network voxel.
        size: network voxels along the axis.
    """
    if factor == 1:
        return first, stop
    return max(0, lower_neighbour(first, factor)), min(size, lower_neighbour(stop - 1, factor) + 2)


def complete_voxels(network_stop: int, *, factor: int, network_size: int, size: int) -> int:
    """Return how many of the volume's voxels follow from the network voxels [0, network_stop) alone."""
    if network_stop >= network_size:
        return size
    return network_stop if factor == 1 else max(0, ((2 * network_stop - 1) * factor) // 2)


def interpolate(
    array: NDArray[np.float32],
    *,
    axis: int,
    first: int,
    stop: int,
    factor: int,
    offset: int,
    size: int,
) -> NDArray[np.float32]:
    """Return the volume's voxels [first, stop) along `axis`, linearly between the centres of network voxels.

    Before the first centre and after the last one it is constant.

    Args:
        array: values at the network voxels [offset, offset + array.shape[axis]).
        axis: the axis of `array`.
        first: first voxel of the volume.
        stop: one past its last voxel.
        factor: volume voxels per network voxel.
        offset: network voxel that `array` begins with.
        size: network voxels along the axis of the whole volume.
    """
    if factor == 1:
        return array[(slice(None),) * axis + (slice(first - offset, stop - offset),)]
    position = (np.arange(first, stop) + 0.5) / factor - 0.5
    lower = np.floor(position).astype(np.int64)
    share = (position - lower).astype(np.float32)
    below = array.take(np.clip(lower, 0, size - 1) - offset, axis=axis)
    above = array.take(np.clip(lower + 1, 0, size - 1) - offset, axis=axis)
    # In place: below + share * (above - below)
    above -= below
    above *= share.reshape([-1 if index == axis else 1 for index in range(array.ndim)])
    above += below
    return above
