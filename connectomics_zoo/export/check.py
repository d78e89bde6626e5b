"""Runs what was written beside the network that it was made of, at several legal sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from connectomics_zoo.errors import CheckFailedError, reason
from connectomics_zoo.export.exported import Exported, NotExportableError, is_fixed
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.network.seeding import seeded_input
from connectomics_zoo.schema.model import SizeRule

TOLERANCE = 5e-4
"""How far an exported network may be from torch's, as a fraction of the largest absolute value that torch computes.

Initial weights are off by 6e-5 at most where a bottleneck of few voxels is normalised, trained ones by 1e-5."""


@dataclass(frozen=True)
class Comparison:
    """One input that both have computed."""

    input_shape: tuple[int, ...]
    """The input's shape (B, C, …)."""
    difference: float
    """The largest absolute difference between both."""
    largest: float
    """The largest absolute value that torch computes."""


class SizeFailedError(NotExportableError):
    """What was written does not run at one of the sizes that it was to take."""

    def __init__(self, message: str, *, at_minimum: bool) -> None:
        super().__init__(message)
        self.at_minimum = at_minimum
        """Whether that was the smallest size, which has the special case of a bottleneck of one voxel."""


def compare(exported: Exported, run: Callable[[Tensor], Tensor], *, name: str) -> tuple[Comparison, ...]:
    """Return how far `run`, the network as the format `name` has it, is from torch's plain float32 arithmetic.

    Raises:
        SizeFailedError: it does not run at one of the sizes, or returns another shape or other values than there.
    """
    done = []
    smallest, *others = check_shapes(exported)
    for shape in (*others, smallest):
        image = seeded_input(shape)
        with plain_only(), torch.no_grad():
            expected = exported.network(image)
            try:
                found = run(image)
            except Exception as error:  # of whatever program runs it
                raise SizeFailedError(
                    f"{exported.reference} does not run as {name} at {shape} ({reason(error)[:200]}), choose another "
                    "format or size.",
                    at_minimum=shape == smallest and bool(others),
                ) from error
        done.append(_compared(exported, found, expected, shape, name=name))
    return tuple(done)


def check_shapes(exported: Exported) -> list[tuple[int, ...]]:
    """Return the inputs to compare at: the smallest, a batch of two that is a step larger, and one of other edges."""
    channels, sizes = exported.spec.input.channels, exported.sizes
    batch = 2 if exported.any_batch else 1
    ones = (1,) * len(sizes.minimum)
    shapes = [
        (1, channels, *sizes.minimum),
        (batch, channels, *_larger(sizes, ones)),
        (1, channels, *_larger(sizes, (2, 0, 1))),
    ]
    return list(dict.fromkeys(shapes))


def _larger(sizes: SizeRule, steps: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        low if is_fixed(low, step) else low + count * step
        for low, step, count in zip(sizes.minimum, sizes.step, steps, strict=False)
    )


def _compared(exported: Exported, found: Tensor, expected: Tensor, shape: tuple[int, ...], *, name: str) -> Comparison:
    if found.shape != expected.shape:
        raise SizeFailedError(
            f"{exported.reference} returns {tuple(found.shape)} as {name} for an input of {shape}, and torch "
            f"{tuple(expected.shape)}, choose another format or size.",
            at_minimum=False,
        )
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    if not math.isfinite(largest):
        raise CheckFailedError(f"{exported.reference} returns values that are NaN or infinite, nothing is exported.")
    if not difference <= TOLERANCE * largest:  # NaN is refused, too
        raise SizeFailedError(
            f"{exported.reference} computes other values as {name} than in torch at {shape} (off by {difference:.2g}, "
            f"allowed are {TOLERANCE * largest:.2g}), choose another format or size.",
            at_minimum=False,
        )
    return Comparison(shape, difference, largest)
