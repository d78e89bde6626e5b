"""Work on blocks that fails, kills or waits as a test wants, importable in workers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.blocks.job import Cut, Job, JobDescription
from connectomics_zoo.blocks.turns import one_at_a_time, work_on
from connectomics_zoo.blocks.where import Shard
from connectomics_zoo.errors import VolumeError


def make_job(out: Path, blocks: int) -> Job:
    """Begin a job of some blocks that lie in a row."""
    cut = Cut(start=(0, 0, 0), stop=(4, 4, 4 * blocks), block=(4, 4, 4), shards=(4, 4, 4), chunks=(4, 4, 4))
    job = Job(out)
    job.begin(
        JobDescription(
            schema_version=1, verb="predict", program="p", identity={}, request={}, cut=cut, stages=("predict",)
        )
    )
    return job


@dataclass(frozen=True)
class Troubled:
    """Writes down which process does a block, and has trouble with some."""

    folder: Path
    damaged: int = -1
    """A block that always fails."""
    deadly: int = -1
    """A block that kills the first process that does it."""
    seconds: float = 0.05
    """How long a block takes."""

    def __call__(self, index: int, advance: object) -> None:
        with (self.folder / f"tried-{index}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if index == self.deadly and len(self.tried(index)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.damaged:
            raise VolumeError(f"block {index}: its file is damaged, repair it.")
        time.sleep(self.seconds)

    def tried(self, index: int) -> list[str]:
        """Return the processes that have tried a block."""
        path = self.folder / f"tried-{index}"
        return path.read_text().split() if path.exists() else []


def take_turns(folder: str, number: int, times: int) -> None:
    """Work on the share `number` of 2 of a job and begin it, again and again; nothing is left of it each time."""
    for _ in range(times):
        job = Job(Path(folder) / "out.zarr")
        with work_on(job, Shard(number, 2)), one_at_a_time(job):
            pass
