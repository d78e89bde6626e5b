"""What runs in a Dask worker: one block after the other, and an end that comes when it is due."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.work import Advance, Work, attempt
from connectomics_zoo.errors import WorkerRefusedError, ZooError, reason
from connectomics_zoo.volumes.uri import Place

GPUS = "ZOO_GPUS_OF_JOB"
"""The environment variable with the number of GPUs that the workers of a job share, one each."""

_GRACE = 3.0
"""Seconds that a worker has to close; then its process ends, whatever block it is in."""

_LOOK = 0.5
"""Seconds between two looks at whether a worker is closing."""

_RECHECK = 2.0
"""Seconds after which a worker looks again, within a block, whether the job is still there."""


class BlockError(Exception):
    """A block was not done; its arguments are `kind` and the sentence, so that it can be pickled.

    The kinds are `refused` (this worker can do no block), `failed` (an error of ours, which says what is wrong) and
    `broken` (any other, after which the process is better replaced).
    """

    @property
    def kind(self) -> str:
        """`refused`, `failed` or `broken`."""
        return str(self.args[0])

    @property
    def problem(self) -> str:
        """What happened."""
        return str(self.args[1])


def work_on(out: Place, stage: str, work: Work, index: int, *, token: str) -> None:
    """Work on a block and write down that it is done.

    Args:
        out: the job's output.
        stage: the stage's name.
        work: what is done with the block.
        index: the block.
        token: of the job that the block is of. Dask may keep a block when whoever wanted it has gone, and by then
            another job may be at the same place.

    Raises:
        BlockError: it is not.
    """
    job = Job(out)
    try:
        attempt(job, stage, _WhileThere(job, work, token), index, advance=_ignore)
    except WorkerRefusedError as error:
        raise BlockError("refused", str(error)) from None
    except ZooError as error:
        raise BlockError("failed", str(error)) from None
    except Exception as error:
        raise BlockError("broken", f"{type(error).__name__}: {reason(error)[:300]}") from None


def _ignore(fraction: float) -> None:
    """Progress within a block stays in the worker."""


@dataclass(frozen=True)
class _WhileThere:
    """Work on the blocks of a job, which is refused where the job is not, or no longer, at its place."""

    job: Job
    work: Work
    token: str

    def __call__(self, index: int, advance: Advance) -> None:
        """Work on a block.

        Raises:
            WorkerRefusedError: the job is not there, before the work, during it or after it.
        """
        self._check()
        checked = time.monotonic()

        def advance_there(fraction: float) -> None:
            nonlocal checked
            if time.monotonic() - checked >= _RECHECK:
                self._check()
                checked = time.monotonic()
            advance(fraction)

        self.work(index, advance_there)
        self._check()

    def _check(self) -> None:
        description = self.job.describe()
        if description is None:
            raise WorkerRefusedError(f"{self.job.place}: the folder of the job is not there, is it on a shared disk?")
        if description.token != self.token:
            raise WorkerRefusedError(
                f"{self.job.place}: another job was begun there after the one that this worker has a block of, which "
                "is not written down as done: repeat the command whose output you want, with --overwrite."
            )


def dask_setup(worker: Any) -> None:
    """Prepare a worker's process, as Dask calls it where this module is preloaded: before any work, and before torch.

    Args:
        worker: Dask's worker.
    """
    gpus = int(os.environ.get(GPUS, "0"))
    if gpus > 1:
        # Dask numbers the workers of a job at the end of their names.
        number = int(str(worker.name).rpartition("-")[2])
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = given.split(",") if given else [str(device) for device in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    threading.Thread(target=_end_when_closing, args=(worker,), name="end-when-closing", daemon=True).start()


def _end_when_closing(worker: Any) -> None:
    """End the process soon after the worker begins to close: Dask would wait for the block in work first.

    By then the scheduler has gone, and with it the process that wants the block, or has given it to another worker.
    """
    from distributed.core import Status

    while worker.status not in (Status.closing, Status.closing_gracefully, Status.closed, Status.failed):
        time.sleep(_LOOK)
    time.sleep(_GRACE)
    os._exit(0)
