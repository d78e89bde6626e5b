"""Gives the blocks of a job to Dask workers, one at a time each, and again to another where one fails.

Each block is bound to a worker by its address. Dask is left nothing to decide, so that a worker never has two blocks,
the graph never has more blocks than there are workers, and it is known who had a block that is lost.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from connectomics_zoo.blocks.dask_worker import BlockError, work_on
from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Work
from connectomics_zoo.errors import CheckFailedError, MissingPackageError, OutputError, reason

TRIES = 3
"""How often a block may fail."""

LOSSES = 5
"""How often the worker that has a block may be lost: that may be the block's fault, or a job's limit of time."""

HOPELESS = 3
"""Blocks that fail before any is done after which the others are not tried."""

_LOOK = 1.0
"""Seconds between two looks at which workers there are."""

_CONNECT = 30
"""Seconds that a scheduler may take to answer."""

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where workers come from."""

    address: str
    """The scheduler's."""
    patience: float
    """Seconds after which it is an error that there is no worker."""
    dashboard: str | None
    """Link to Dask's page about the workers."""
    security: Any
    """Dask's, with the keys for the scheduler; None for what Dask's configuration says."""

    def keep_up(self, *, present: int, is_working: bool) -> None:
        """Replace workers that have gone.

        Args:
            present: workers that there are.
            is_working: whether a block was done since the last call.
        """

    def renew(self, client: Any, address: str) -> None:
        """Replace the process of a worker."""

    def explain(self) -> str:
        """Return the sentence about why there is no worker."""


@contextmanager
def workers_of(where: Where, job: Job) -> Iterator[Workers]:
    """Yield workers, which end with the block.

    Raises:
        MissingPackageError: Dask is not installed, or SLURM is not there.
        CheckFailedError: the scheduler does not answer, or SLURM refuses the jobs.
    """
    try:
        import dask
        import distributed
    except ImportError:
        raise MissingPackageError(
            "Dask is not installed, which gives work to other processes: pip install 'connectomics-zoo[cluster]'."
        ) from None
    # A lost worker is ours to judge, and a killed main process is noticed by a broken connection at once.
    open_client: Any = distributed.Client  # which has no types
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.comm.timeouts.connect": _CONNECT}
    with _silence(), dask.config.set(settings), _source(where, job) as source:
        client: Any = None
        try:
            try:
                client = open_client(source.address, timeout=_CONNECT, set_as_default=False, security=source.security)
            except (OSError, TimeoutError, ValueError) as error:
                raise CheckFailedError(
                    f"the Dask scheduler at {source.address} does not answer ({reason(error)}): give the address that "
                    "it prints when it starts."
                ) from None
            if source.dashboard is not None:
                _log.warning("the workers' dashboard is at %s", source.dashboard)
            job.log("workers", scheduler=source.address, dashboard=source.dashboard)
            yield Workers(client, source)
        finally:
            if client is not None:
                client.close(timeout=2)


@contextmanager
def _source(where: Where, job: Job) -> Iterator[Source]:
    if where.workers is not None:
        from connectomics_zoo.blocks.local_workers import local_workers

        with local_workers(where.workers, folder=job.folder) as local:
            yield local
    elif where.cluster is not None:
        from connectomics_zoo.blocks.slurm import slurm_workers

        with slurm_workers(where.cluster) as slurm:
            yield slurm
    else:
        assert where.scheduler is not None
        yield Elsewhere(where.scheduler)


@dataclass
class Elsewhere:
    """Workers of a scheduler that is there, which come and go as others want."""

    address: str
    patience: float = 300.0
    dashboard: str | None = None
    security: Any = None

    def keep_up(self, *, present: int, is_working: bool) -> None:
        """Do nothing: whoever has started the workers replaces them."""

    def renew(self, client: Any, address: str) -> None:
        """Do nothing."""

    def explain(self) -> str:
        """Return why there is no worker."""
        return (
            f"the scheduler at {self.address} has had no worker for {self.patience:.0f} s, start some with dask worker "
            f"{self.address}."
        )


@dataclass
class _State:
    """What is known of the blocks of a run."""

    waiting: deque[int]
    token: str
    """Of the job that they are of."""
    flying: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By the worker's address, its block and Dask's future."""
    failed_on: dict[int, set[str]] = field(default_factory=dict)
    """Workers with which a block has failed."""
    tries: Counter[int] = field(default_factory=Counter)
    losses: Counter[int] = field(default_factory=Counter)
    problems: dict[int, str] = field(default_factory=dict)
    """What is said of blocks that are given up."""
    done: int = 0


class Workers:
    """Workers that take blocks.

    Args:
        client: Dask's client.
        source: where they come from.
    """

    def __init__(self, client: Any, source: Source) -> None:
        self._client = client
        self._source = source
        self._present: set[str] = set()
        self._refused: dict[str, str] = {}
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._looked = -_LOOK
        self._done_before = 0
        self._last_seen = time.monotonic()

    def run(
        self, job: Job, stage: str, work: Work, todo: list[int], *, finish: Callable[[int], None]
    ) -> dict[int, str]:
        """Work on blocks, and return what is wrong with those that are given up.

        Args:
            job: the job.
            stage: the stage's name.
            work: what is done with a block.
            todo: the blocks.
            finish: is told of each block that is done.

        Raises:
            CheckFailedError: there are no workers, none of them can take part, or no block succeeds.
            OutputError: the job's folder has gone, or cannot be written.
        """
        description = job.describe()
        if description is None:
            raise OutputError(f"{job.place}: the folder of the job has gone: repeat the command, which begins anew.")
        state = _State(deque(todo), description.token)
        self._done_before = 0
        try:
            while state.waiting or state.flying:
                self._look(state)
                self._assign(state, job, stage, work, finish=finish)
                if not state.flying and not state.waiting:
                    break
                try:
                    address, future = self._events.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if state.flying.get(address, (0, None))[1] is future:
                    self._land(state, address, future, job=job, finish=finish)
                if not state.done and len(state.problems) >= HOPELESS:
                    break  # what is wrong is wrong with all of them
        finally:
            for _, future in state.flying.values():
                future.cancel()
        return state.problems

    def _look(self, state: _State) -> None:
        """See which workers there are; what those had that are lost waits again."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        try:
            self._present = set(self._client.nthreads())
        except (OSError, TimeoutError) as error:
            raise CheckFailedError(
                f"the Dask scheduler at {self._source.address} has gone ({reason(error)}): repeat the command to go on."
            ) from None
        for address in state.flying.keys() - self._present:
            self._lose(state, address)
        if self._present - self._refused.keys():
            self._last_seen = now
        elif self._present:
            raise CheckFailedError(next(iter(self._refused.values())))
        elif now - self._last_seen > self._source.patience:
            raise CheckFailedError(self._source.explain())
        self._source.keep_up(present=len(self._present), is_working=state.done > self._done_before)
        self._done_before = state.done

    def _assign(self, state: _State, job: Job, stage: str, work: Work, *, finish: Callable[[int], None]) -> None:
        """Give a block to each worker that has none."""
        able = self._present - self._refused.keys()
        for address in sorted(able - state.flying.keys()):
            index = _next_for(address, state, able=able)
            if index is None:
                continue
            if state.losses[index] and job.is_done(stage, index):  # its worker was lost after that
                state.done += 1
                finish(index)
                continue
            future = self._client.submit(
                work_on,
                *(job.out, stage, work, index),
                token=state.token,
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            state.flying[address] = (index, future)
            future.add_done_callback(lambda future, address=address: self._events.put((address, future)))

    def _land(self, state: _State, address: str, future: Any, *, job: Job, finish: Callable[[int], None]) -> None:
        """Take the outcome of a block."""
        index = state.flying[address][0]
        if future.status == "finished":
            del state.flying[address]
            state.done += 1
            finish(index)
            return
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, BlockError) and _is_loss(error):
            self._lose(state, address)
            return
        del state.flying[address]
        kind, problem = (error.kind, error.problem) if isinstance(error, BlockError) else ("refused", _foreign(error))
        job.log("failed", block=index, worker=address, kind=kind, problem=problem)
        if kind == "refused":
            self._refused[address] = problem
            if self._present - self._refused.keys():  # else it is the error
                _log.warning("a worker cannot take part: %s", problem)
            state.waiting.append(index)
            return
        if kind == "broken":
            self._source.renew(self._client, address)
        state.failed_on.setdefault(index, set()).add(address)
        state.tries[index] += 1
        _again_or_never(state, index, problem, is_last=state.tries[index] >= TRIES)

    def _lose(self, state: _State, address: str) -> None:
        """Let the block of a worker that is lost wait again."""
        index, future = state.flying.pop(address)
        self._present.discard(address)
        future.cancel()
        state.losses[index] += 1
        state.failed_on.setdefault(index, set()).add(address)
        problem = (
            f"its worker was lost {LOSSES} times, which is killed for its memory or lives shorter than the block takes"
        )
        _again_or_never(state, index, problem, is_last=state.losses[index] >= LOSSES)


def _next_for(address: str, state: _State, *, able: set[str]) -> int | None:
    """Take the first block that has not failed with this worker, or has with all others too."""
    for place, index in enumerate(state.waiting):
        tried = state.failed_on.get(index)
        if tried is None or address not in tried or able <= tried:
            del state.waiting[place]
            return index
    return None


def _again_or_never(state: _State, index: int, problem: str, *, is_last: bool) -> None:
    if is_last:
        state.problems[index] = problem
    else:
        state.waiting.append(index)


def _is_loss(error: BaseException | None) -> bool:
    """Whether what Dask says is that the worker, or what it had, has gone."""
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    return error is None or isinstance(error, KilledWorker | CancelledError)


def _foreign(error: BaseException | None) -> str:
    """Return what an error means that is not from our own code in the worker."""
    assert error is not None
    return (
        f"it has not the same environment as this program ({type(error).__name__}: {reason(error)[:300]}), install the "
        "same version there."
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Dask logs from the user, who is told in our sentences."""
    names = ("distributed", "distributed.client", "dask_jobqueue", "bokeh", "tornado", "tornado.application", "asyncio")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:], logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
