"""Works on the blocks of a job, wherever it runs, and writes down which are done."""

from __future__ import annotations

import logging
from collections.abc import Callable

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Advance, Work, attempt
from connectomics_zoo.errors import CheckFailedError
from connectomics_zoo.schema.progress import Progress

_log = logging.getLogger(__name__)


def run_blocks(
    job: Job,
    stage: str,
    work: Work,
    *,
    grid: BlockGrid,
    where: Where,
    progress: Callable[[Progress], None] | None = None,
    label: str = "",
) -> bool:
    """Work on all blocks of a stage that are not done; return whether all of them are then.

    They are not where this process has a share of them alone, and others are still at work.

    Args:
        job: the job.
        stage: the stage's name.
        work: what is done with a block.
        grid: the blocks.
        where: where it runs.
        progress: is told how many voxels are done.
        label: names the stage for `progress`.

    Raises:
        ZooError: what the work raises; other processes than this one go on with the other blocks first.
        CheckFailedError: other processes have failed with a block three times.
        OutputError: the job's folder cannot be written.
        MissingPackageError: what gives the other processes is not installed.
    """
    done = job.done(stage)
    todo = [index for index in range(len(grid)) if index not in done]
    if where.shard is not None:
        todo = where.shard.of(list(range(len(grid))))
        todo = [index for index in todo if index not in done]
    tally = _Tally(grid, done, progress=progress, label=label)
    job.log("begin", stage=stage, blocks=len(grid), done=len(done), todo=len(todo))
    if todo and where.is_here:
        for index in todo:
            attempt(job, stage, work, index, advance=tally.advance_in(index))
            tally.finish(index)
    elif todo:
        from connectomics_zoo.blocks.dask_workers import workers_of

        with workers_of(where, job) as workers:
            failed = workers.run(job, stage, work, todo, finish=tally.finish)
        if failed:
            shown = "; ".join(f"{grid.box_of(index)}: {problem}" for index, problem in sorted(failed.items())[:3])
            raise CheckFailedError(
                f"{job.out}: {len(failed)} of {len(grid)} blocks were given up ({shown}): mend what they say and "
                "repeat the command, which does these alone."
            )
    return len(job.done(stage)) == len(grid)


class _Tally:
    """How many voxels are done."""

    def __init__(
        self, grid: BlockGrid, done: set[int], *, progress: Callable[[Progress], None] | None, label: str
    ) -> None:
        self._grid = grid
        self._progress = progress
        self._label = label
        self._done = sum(grid.box_of(index).voxels for index in done)
        self._told = -1
        self._tell(self._done)

    def _tell(self, voxels: int) -> None:
        if self._progress is not None and voxels != self._told:
            self._told = voxels
            self._progress(Progress(voxels, self._grid.box.voxels, unit="voxels", label=self._label))

    def advance_in(self, index: int) -> Advance:
        voxels = self._grid.box_of(index).voxels
        return lambda fraction: self._tell(self._done + int(voxels * fraction))

    def finish(self, index: int) -> None:
        self._done += self._grid.box_of(index).voxels
        self._tell(self._done)
