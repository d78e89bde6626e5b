"""Whether something happens, and the types that all of augmentation shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sample(NamedTuple):
    """A patch that is augmented."""

    image: NDArray[np.float32]
    """(C, Z, Y, X), intensities scaled to 0..1."""
    labels: NDArray[Any]
    """(Z, Y, X), or of several label volumes (V, Z, Y, X)."""
    annotated: NDArray[np.bool_]
    """Of the same shape, False where the labels say nothing."""


def happens(probability: float, generator: np.random.Generator) -> bool:
    """Return whether something of this probability happens; what is certain draws no random number."""
    return probability >= 1 or (probability > 0 and bool(generator.random() < probability))


def chosen_sections(fraction: float, count: int, generator: np.random.Generator) -> list[int]:
    """Return which of `count` sections a defect befalls that befalls this fraction of them."""
    if fraction <= 0:
        return []
    found: list[int] = np.flatnonzero(generator.random(count) < fraction).tolist()
    return found
