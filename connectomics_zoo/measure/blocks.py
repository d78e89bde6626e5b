"""What is counted in one block: voxels, positions, crossings of surfaces, intensities and contacts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.measure.intensity import BITS
from connectomics_zoo.measure.surface import DIRECTIONS
from connectomics_zoo.measure.tally import Collected, Integers, Tally, sums_alone
from connectomics_zoo.scores.contingency import count_pairs
from connectomics_zoo.volumes import Box

VOXELS = 0
"""Column of the sums: voxels."""
POSITIONS = slice(1, 4)
"""Columns: the voxels' positions (z, y, x)."""
CROSSINGS = slice(4, 4 + len(DIRECTIONS))
"""Columns: how often lines of each direction leave or enter the object."""
INTENSITIES = slice(CROSSINGS.stop, CROSSINGS.stop + 3)
"""Columns, where there is an intensity: the sum of the numbers, and that of their squares, high and low."""

OVERLAP = len(DIRECTIONS)
"""Column of the sums of pairs, behind the crossings: voxels that both have."""

_NONE = np.iinfo(np.int64).max


class Labels:
    """Labels of a block and of what surrounds it, as numbers 0, 1, … of their ids.

    Args:
        labels: (Z, Y, X), with 0 for background.
    """

    def __init__(self, labels: NDArray[Any]) -> None:
        flat = labels.ravel()
        # Labels run along x: what is sorted are runs, many times fewer than voxels.
        starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
        ids, numbers = np.unique(flat[starts].astype(np.uint64), return_inverse=True)
        if ids[0] != 0:
            ids, numbers = np.append(np.uint64(0), ids), numbers + 1
        lengths = np.diff(np.append(starts, flat.size))
        self.ids: NDArray[np.uint64] = ids
        """The id of each number; that of 0 is 0."""
        self.numbers: NDArray[np.int32] = np.repeat(numbers.ravel().astype(np.int32), lengths).reshape(labels.shape)
        """(Z, Y, X)."""


def count_objects(labels: Labels, core: Box, *, around: Box, intensity: Integers | None) -> Tally:
    """Return the sums of each object in a block.

    Args:
        labels: of `around`.
        core: the block.
        around: the block and one more voxel behind it along each axis, as far as the volume goes.
        intensity: whole numbers (Z, Y, X) of the block.
    """
    count = len(labels.ids)
    numbers = np.ascontiguousarray(labels.numbers[core.relative_to(around.start).slices])
    sums = np.zeros((count, INTENSITIES.start if intensity is None else INTENSITIES.stop), np.int64)
    low, high = np.full((count, 3), _NONE), np.full((count, 3), -1)
    rows = numbers.reshape(-1, numbers.shape[2])
    begins = np.ones(rows.shape, bool)
    begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, rows.size))
    row, x = np.divmod(starts, rows.shape[1])
    z, y = np.divmod(row, numbers.shape[1])
    of = numbers.ravel()[starts]
    first = [position + start for position, start in zip((z, y, x), core.start, strict=True)]
    last = [first[0], first[1], first[2] + lengths - 1]
    sums[:, VOXELS] = _sum_by(of, lengths, count)
    for axis, (one, other) in enumerate(zip(first, last, strict=True)):
        # In a run along x, positions are the mean of its ends; twice that is a whole number.
        relative = one + other - 2 * core.start[axis]
        twice = _sum_by(of, relative * lengths, count)
        sums[:, POSITIONS.start + axis] = twice // 2 + core.start[axis] * sums[:, VOXELS]
        np.minimum.at(low[:, axis], of, one)
        np.maximum.at(high[:, axis], of, other)
    if intensity is not None:
        sums[:, INTENSITIES] = _intensities(intensity, starts, of, count)
    for index, pair in enumerate(_neighbours(labels.numbers, core=core, around=around)):
        here, there = pair
        different = here != there
        for side in (here, there):
            sums[:, CROSSINGS.start + index] += np.bincount(side[different], minlength=count)
    return Tally(labels.ids[1:, np.newaxis], sums[1:], low[1:], high[1:])


def _intensities(intensity: Integers, starts: NDArray[np.intp], of: NDArray[np.int32], count: int) -> Integers:
    values = intensity.ravel()
    totals, squares = np.add.reduceat(values, starts), np.add.reduceat(values * values, starts)
    parts = (totals, squares >> BITS, squares & (2**BITS - 1))
    return np.stack([_sum_by(of, part, count) for part in parts], axis=1)


def _sum_by(numbers: NDArray[np.int32], values: Integers, count: int) -> Integers:
    """Return the sums of values of each number; they are below 2^53, up to which floats count by one."""
    sums: Integers = np.bincount(numbers, weights=values, minlength=count).astype(np.int64)
    return sums


def _neighbours(numbers: NDArray[Any], *, core: Box, around: Box) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return for each direction the two ends of its steps, as two arrays.

    A step is of the block that has the first corner of the two by two by two voxels that it lies in.
    """
    pairs = []
    for z, y, x in DIRECTIONS:
        ends = [(max(0, -z), max(0, -y), max(0, -x)), (max(0, z), max(0, y), max(0, x))]
        corners = core
        for end in ends:
            corners = corners.intersection(around.relative_to(end))
        here, there = (numbers[corners.moved(end).relative_to(around.start).slices] for end in ends)
        pairs.append((here, there))
    return pairs


def count_contacts(labels: Labels, other: Labels, core: Box, *, around: Box) -> Tally:
    """Return the sums of each pair of an object and one of the other volume in a block.

    A line that leaves the object for a voxel of the other one crosses where they touch; where it leaves it, the voxel
    before may be of both.
    """
    found = Collected()
    sides = zip(
        _neighbours(labels.numbers, core=core, around=around),
        _neighbours(other.numbers, core=core, around=around),
        strict=True,
    )
    for index, ((here, there), (other_here, other_there)) in enumerate(sides):
        different = here != there
        for inside, beyond in ((here, other_there), (there, other_here)):
            found.add(_pairs(labels, other, inside[different], beyond[different], column=index))
    inner = core.relative_to(around.start).slices
    found.add(_pairs(labels, other, labels.numbers[inner], other.numbers[inner], column=OVERLAP))
    return found.total()


def _pairs(labels: Labels, other: Labels, one: NDArray[Any], two: NDArray[Any], *, column: int) -> Tally:
    """Count pairs in which neither is background, in a column of the sums."""
    table = count_pairs(one, two)
    table = table.select((table.prediction != 0) & (table.truth != 0))
    sums = np.zeros((len(table.counts), OVERLAP + 1), np.int64)
    sums[:, column] = table.counts
    return sums_alone(np.stack([labels.ids[table.prediction], other.ids[table.truth]], axis=1), sums)
