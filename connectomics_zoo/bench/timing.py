"""Times of things that take turns in one process, so that a change of the machine's speed meets all of them."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

PAUSE_SECONDS = 0.02
"""Between two runs: the threads of one library still spin for some milliseconds, and would disturb the next one."""

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """The wall times of one thing, in seconds, in the order of the rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def shortest(self) -> float:
        """The shortest round."""
        return min(self.rounds)

    @property
    def longest(self) -> float:
        """The longest round."""
        return max(self.rounds)


def alternate(
    runs: Mapping[_Key, Callable[[], object]], *, rounds: int, after_each: Callable[[], None] | None = None
) -> dict[_Key, Timing]:
    """Run all of `runs` once a round and return their times; nothing is warmed up.

    Args:
        runs: what to time; each returns when its work is done, on an accelerator, too.
        rounds: how often.
        after_each: is called after every run, outside its time.
    """
    seconds: dict[_Key, list[float]] = {key: [] for key in runs}
    gc.collect()
    for _ in range(rounds):
        for key, run in runs.items():
            time.sleep(PAUSE_SECONDS)
            begin = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - begin)
            if after_each is not None:
                after_each()
    return {key: Timing(tuple(values)) for key, values in seconds.items()}


def relative_error(found: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Return the L2 norm of the difference over that of `reference`, of all tensors taken as one vector."""
    difference = norm = 0.0
    for value, true in zip(found, reference, strict=True):
        difference += (value.double() - true.double()).square().sum().item()
        norm += true.double().square().sum().item()
    return math.sqrt(difference / norm) if norm else math.inf if difference else 0.0
