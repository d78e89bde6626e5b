"""Coarser voxels that cover any number of finer ones, and parts of some: means, majorities and masks by area.

A target covers the interval [n * ratio, (n + 1) * ratio) of sources. How much of a source lies in it is a whole number
of parts, of which a source has `ratio.denominator`, so that counts are exact; the sums of grey values are taken source
by source in one order, and so do not depend on the targets beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.ratios import Ratio

_EXACT_FLOAT32 = 2**24
"""Whole numbers up to this are exact in float32."""

_GATHERED = 2**22
"""Voxels of mixed targets that are sorted at a time."""


@dataclass(frozen=True)
class Cover:
    """Which sources the targets along an axis cover, and how much of each."""

    sources: NDArray[np.intp]
    """(N, K), in the array that is read from; of those that are not covered, some other one."""
    parts: NDArray[np.int64]
    """(N, K), parts of each that are covered, 0 to `ratio.denominator`."""

    @property
    def totals(self) -> NDArray[np.int64]:
        """(N,), parts that each target has: fewer where the sources end."""
        totals: NDArray[np.int64] = self.parts.sum(axis=1)
        return totals


@lru_cache(maxsize=256)
def cover(first: int, stop: int, *, ratio: Ratio, offset: int, size: int, low: int = 0) -> Cover:
    """Return what the targets [first, stop) cover.

    Args:
        first: first target.
        stop: one past the last target.
        ratio: sources per target.
        offset: source that the array begins with.
        size: one past the last source that there is; it is in the array if a target covers it.
        low: the first source that there is.
    """
    begin = np.arange(first, stop, dtype=np.int64)[:, np.newaxis] * ratio.numerator
    end = begin + ratio.numerator
    part = ratio.denominator
    most = int((-(-end // part) - begin // part).max())
    sources = begin // part + np.arange(most)
    parts = np.minimum(end, (sources + 1) * part) - np.maximum(begin, sources * part)
    parts[(parts < 0) | (sources < low) | (sources >= size)] = 0
    kept = np.where(parts > 0, sources, np.clip(begin // part, low, size - 1)) - offset
    return Cover(kept, parts)


def average(array: NDArray[np.float32], covers: Sequence[Cover | None]) -> NDArray[np.float32]:
    """Return the mean of what each target covers, for (Z, Y, X) or (C, Z, Y, X); axes without a cover stay."""
    for axis, one in _along(array, covers):
        sums = _summed(array, one, axis=axis)
        sums /= _shaped(one.totals.astype(np.float32), axis=axis, ndim=array.ndim)
        array = sums
    return array


def majority(array: NDArray[Any], covers: Sequence[Cover | None]) -> NDArray[Any]:
    """Return the label that has most of each target (Z, Y, X), and of equal ones the smallest.

    Args:
        array: bool or whole numbers (Z, Y, X).
        covers: along z, y and x; axes without one stay.
    """
    if all(one is None for one in covers):
        return array
    if array.min() >= 0 and array.max() <= 1:
        return _binary_majority(array, covers)
    smallest, largest = array, array
    for axis, one in _along(array, covers):
        smallest = _combined(np.minimum, smallest, one, axis=axis)
        largest = _combined(np.maximum, largest, one, axis=axis)
    mixed = np.nonzero(smallest != largest)
    full = [
        Cover(np.arange(length)[:, np.newaxis], np.ones((length, 1), np.int64)) if one is None else one
        for length, one in zip(array.shape, covers, strict=True)
    ]
    result: NDArray[Any] = smallest.copy()
    step = max(1, _GATHERED // math.prod(one.parts.shape[1] for one in full))
    for begin in range(0, len(mixed[0]), step):
        chosen = tuple(index[begin : begin + step] for index in mixed)
        result[chosen] = _largest_parts(array, full, chosen)
    return result


def all_of(array: NDArray[np.bool_], covers: Sequence[Cover | None]) -> NDArray[np.bool_]:
    """Return for each target (Z, Y, X) whether all that it covers, however little of it, is True."""
    result: NDArray[np.bool_] = array
    for axis, one in _along(array, covers):
        result = _combined(np.logical_and, result, one, axis=axis)
    return result


def _along(array: NDArray[Any], covers: Sequence[Cover | None]) -> list[tuple[int, Cover]]:
    """Return the axes of `array` that have a cover, with it; the covers are those of its last axes."""
    before = array.ndim - len(covers)
    return [(before + axis, one) for axis, one in enumerate(covers) if one is not None]


def _binary_majority(array: NDArray[Any], covers: Sequence[Cover | None]) -> NDArray[Any]:
    totals = [one.totals for _, one in _along(array, covers)]
    # The smallest type that counts a whole target is the fastest.
    counts: NDArray[Any] = array.astype(np.min_scalar_type(math.prod(int(total.max()) for total in totals)))
    whole: NDArray[Any] = np.ones((1, 1, 1))
    for axis, one in _along(array, covers):
        counts = _summed(counts, one, axis=axis)
        whole = whole * _shaped(one.totals, axis=axis, ndim=3)
    result: NDArray[Any] = (counts > whole / 2).astype(array.dtype)
    return result


def _summed(array: NDArray[Any], one: Cover, *, axis: int) -> NDArray[Any]:
    """Return for each target the sum of its sources, times their parts, in the order of the sources."""
    total: NDArray[Any] | None = None
    for sources, parts in zip(one.sources.T, one.parts.T, strict=True):
        values = array.take(sources, axis=axis)
        values *= _shaped(parts.astype(array.dtype), axis=axis, ndim=array.ndim)
        if total is None:
            total = values
        else:
            total += values
    assert total is not None
    return total


def _combined(function: np.ufunc, array: NDArray[Any], one: Cover, *, axis: int) -> NDArray[Any]:
    """Return `function` over the sources of each target; what is not covered is a repetition of the first one."""
    result = array.take(one.sources[:, 0], axis=axis)
    for sources in one.sources.T[1:]:
        function(result, array.take(sources, axis=axis), out=result)
    return result


def _largest_parts(array: NDArray[Any], covers: Sequence[Cover], targets: tuple[NDArray[np.intp], ...]) -> NDArray[Any]:
    """Return the label with most parts of each of the `targets`, given by their indices along z, y and x."""
    shapes = (
        (-1, covers[0].parts.shape[1], 1, 1),
        (-1, 1, covers[1].parts.shape[1], 1),
        (-1, 1, 1, covers[2].parts.shape[1]),
    )
    z, y, x = (one.sources[index].reshape(shape) for one, index, shape in zip(covers, targets, shapes, strict=True))
    labels = array[z, y, x].reshape(len(targets[0]), -1)
    heaviest = math.prod(int(one.totals.max()) for one in covers)
    exact = np.float32 if heaviest < _EXACT_FLOAT32 else np.float64
    parts = [
        one.parts[index].astype(exact).reshape(shape) for one, index, shape in zip(covers, targets, shapes, strict=True)
    ]
    weights = (parts[0] * parts[1] * parts[2]).reshape(labels.shape)
    low, high = labels.min(axis=1), labels.max(axis=1)
    is_high = labels == high[:, np.newaxis]
    # Nearly all are at the border of two labels, which needs no sorting; of equal parts, the smaller one.
    found: NDArray[Any] = np.where(2 * np.einsum("mt,mt->m", weights, is_high) > weights.sum(axis=1), high, low)
    many = np.flatnonzero(((labels != low[:, np.newaxis]) & ~is_high).any(axis=1))
    if many.size:
        found[many] = _heaviest(labels[many], weights[many])
    return found


def _heaviest(labels: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Return the label of each row (M, T) whose weights add up to most; of equal ones the smallest."""
    order = np.argsort(labels, axis=1, kind="stable")
    labels, weights = np.take_along_axis(labels, order, axis=1), np.take_along_axis(weights, order, axis=1)
    # Of each run of equal labels, the weights are those up to its end less those before its start.
    ends = np.cumsum(weights, axis=1)
    is_start = np.ones(labels.shape, dtype=bool)
    is_start[:, 1:] = labels[:, 1:] != labels[:, :-1]
    before = np.maximum.accumulate(np.where(is_start, ends - weights, 0), axis=1)
    best = (ends - before).argmax(axis=1)  # the first of equal ones, and labels rise
    found: NDArray[Any] = np.take_along_axis(labels, best[:, np.newaxis], axis=1)[:, 0]
    return found


def _shaped(values: NDArray[Any], *, axis: int, ndim: int) -> NDArray[Any]:
    """Return values along one axis so that they broadcast to arrays of `ndim`."""
    return values.reshape([-1 if index == axis else 1 for index in range(ndim)])
