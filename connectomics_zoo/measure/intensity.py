"""Intensities as whole numbers, whose sums are exact, and what mean and deviation those give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 2**24 - 1
"""Of floats and wide integers, between the smallest and the largest."""

BITS = 24
"""Sums of squares are kept as two numbers, of the lowest so many bits and of the others."""


@dataclass(frozen=True)
class Scale:
    """What a whole number stands for: `lowest + step * number`."""

    lowest: float
    step: float

    def numbers(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the whole numbers, 0 to 2^24 - 1, of values as they are read."""
        if values.dtype.kind != "f" and self.step == 1:
            return values.astype(np.int64) - int(self.lowest)
        return np.rint((values.astype(np.float64) - self.lowest) / self.step).astype(np.int64)

    def mean_and_deviation(self, count: int, total: int, squares: int) -> tuple[float, float]:
        """Return mean and standard deviation of `count` values from the sums of their numbers and of those squared."""
        variance = (count * squares - total * total) / (count * count)
        return self.lowest + self.step * (total / count), self.step * math.sqrt(variance)


def narrow_scale(dtype: np.dtype[Any]) -> Scale | None:
    """Return the scale of integers of up to 16 bits, which are counted as they are; None for others."""
    if dtype.kind == "f" or dtype.itemsize > 2:
        return None
    return Scale(float(np.iinfo(dtype).min), 1.0)


def scale_between(lowest: float, highest: float, *, dtype: np.dtype[Any]) -> Scale:
    """Return a scale from the smallest to the largest value; integers stay as they are where they are near enough."""
    if dtype.kind in "iu" and highest - lowest <= STEPS:
        return Scale(lowest, 1.0)
    return Scale(lowest, (highest - lowest) / STEPS or 1.0)
