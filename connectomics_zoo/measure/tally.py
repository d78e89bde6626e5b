"""Whole numbers that are summed over the blocks of a volume: exactly, so that it does not matter how it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MERGE_ABOVE = 1_000_000
"""Rows that are collected before they are merged, so that memory follows the number of objects."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Rows of numbers, each of an object or of a pair of them."""

    keys: NDArray[np.uint64]
    """(rows, 1 or 2), ids."""
    sums: Integers
    """(rows, sums), to be added."""
    low: Integers
    """(rows, lows), of which the smallest is kept."""
    high: Integers
    """(rows, highs), of which the largest is kept."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.keys)

    def select(self, keep: NDArray[np.bool_]) -> Tally:
        """Return the rows where `keep` is true."""
        return Tally(self.keys[keep], self.sums[keep], self.low[keep], self.high[keep])


def sums_alone(keys: NDArray[np.uint64], sums: Integers) -> Tally:
    """Return rows in which everything is added."""
    nothing = np.zeros((len(keys), 0), np.int64)
    return Tally(keys, sums, nothing, nothing)


class Collected:
    """The sum of the tallies that were added."""

    def __init__(self) -> None:
        self._parts: list[Tally] = []
        self._rows = 0
        self._limit = MERGE_ABOVE

    def add(self, tally: Tally) -> None:
        """Add the rows of a block; a key may be in it more than once."""
        self._parts.append(tally)
        self._rows += len(tally)
        if self._rows > self._limit:
            self._parts = [merge(self._parts)]
            self._rows = len(self._parts[0])
            # Where almost every row is new, merging again after each block would cost more than it saves.
            self._limit = max(MERGE_ABOVE, 2 * self._rows)

    def total(self) -> Tally:
        """Return each key once, in the order of the keys; something must have been added."""
        return merge(self._parts)


def merge(parts: Sequence[Tally]) -> Tally:
    """Return the sum of `parts`, of which there is at least one: each key once, in their order."""
    keys, sums, low, high = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "sums", "low", "high")
    )
    if not len(keys):
        return Tally(keys, sums, low, high)
    order = np.lexsort(tuple(reversed(keys.T)))
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
    return Tally(
        keys[starts],
        _reduced(np.add, sums[order], starts),
        _reduced(np.minimum, low[order], starts),
        _reduced(np.maximum, high[order], starts),
    )


def _reduced(operation: np.ufunc, rows: Integers, starts: NDArray[np.intp]) -> Integers:
    reduced: NDArray[Any] = operation.reduceat(rows, starts, axis=0)
    return reduced.astype(np.int64, copy=False)
