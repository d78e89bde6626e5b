"""The work on a block, whoever does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from connectomics_zoo.blocks.job import Job

Advance = Callable[[float], None]
"""Is told which fraction of a block is done."""


class Work(Protocol):
    """What is done with each block of a stage; it can be pickled, and opens what it needs where it is."""

    def __call__(self, index: int, advance: Advance) -> None:
        """Work on a block, of which nothing or anything may have been done before."""


def attempt(job: Job, stage: str, work: Work, index: int, *, advance: Advance) -> None:
    """Work on one block and write down that it is done."""
    begin = time.perf_counter()
    work(index, advance)
    seconds = round(time.perf_counter() - begin, 3)
    job.mark_done(stage, index, seconds=seconds)
    job.log("block", stage=stage, block=index, seconds=seconds)
