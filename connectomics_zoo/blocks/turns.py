"""Who may work on a job: one process on all of it, or one on each share; and one at a time begins and finishes it.

That is so on local and shared disks. Behind a URI there are no locks: the share 0 begins a job there, and others wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.where import Shard
from connectomics_zoo.errors import OutputError
from connectomics_zoo.runs.lock import lock_folder, refuse_held

WAIT_S = 600.0
"""Seconds for which a share waits for another one to begin or to finish the job."""

_LOOK = 1.0

_TIMES = 20
"""How often a folder is made anew that others remove meanwhile."""

_INSTEAD = "choose another name for the output"


@contextmanager
def work_on(job: Job, shard: Shard | None) -> Iterator[None]:
    """Hold the right to work on a job, or on a share of it, during the block; makes its folder.

    Raises:
        OutputError: another process works on it, or the folder cannot be made.
    """
    folder = job.folder
    if folder is None:
        yield
        return
    shares = folder / "shares"
    own = folder if shard is None else shares / f"{shard.number}-of-{shard.count}"
    _make(own)
    try:
        with lock_folder(own, instead=_INSTEAD):
            # Taken first, looked around then: of two who do so at once, one at least sees the other.
            for other in _others(folder, shard):
                refuse_held(other, instead=_INSTEAD)
            yield
    finally:
        for place in (own, shares, folder):
            _remove_empty(place)


@contextmanager
def one_at_a_time(job: Job, *, wait_s: float | None = None) -> Iterator[None]:
    """Wait until no other share begins or finishes the job, and let none do so during the block.

    Args:
        job: the job.
        wait_s: seconds for which another one is waited for; by default `WAIT_S`.

    Raises:
        OutputError: it takes too long.
    """
    if job.folder is None:
        yield
        return
    gate = job.folder / "gate"
    with ExitStack() as held:
        held.callback(_remove_empty, gate)
        _pass(gate, held, wait_s=WAIT_S if wait_s is None else wait_s)
        yield


def _pass(gate: Path, held: ExitStack, *, wait_s: float) -> None:
    """Take the lock of a folder, which who holds it may remove: it is made again then."""
    while True:
        _make(gate)
        try:
            held.enter_context(lock_folder(gate, instead=_INSTEAD, wait_s=wait_s))
        except OutputError as error:
            if not isinstance(error.__context__, FileNotFoundError):
                raise
        else:
            return


def wait_until_begun(job: Job, *, seconds: float = WAIT_S) -> None:
    """Wait for the share that begins a job behind a URI.

    Raises:
        OutputError: it takes too long.
    """
    end = time.monotonic() + seconds
    while job.describe() is None:
        if time.monotonic() >= end:
            raise OutputError(
                f"{job.out}: the share 0 has not begun the job for {seconds:.0f} s: run it too, behind a URI it is the "
                "one that begins."
            )
        time.sleep(_LOOK)


def _others(folder: Path, shard: Shard | None) -> list[Path]:
    """The folders of those who must not work at the same time: all on a share, or all but those on other shares."""
    shares = sorted((folder / "shares").glob("*-of-*"))
    if shard is None:
        return shares
    return [folder, *(share for share in shares if not share.name.endswith(f"-of-{shard.count}"))]


def _make(folder: Path) -> None:
    for last in (*[False] * _TIMES, True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except OSError as error:
            if isinstance(error, FileNotFoundError | FileExistsError) and not last:
                continue  # another process has just removed a folder that it had made, and found empty
            raise OutputError(f"{folder}: cannot be made ({error.strerror}), give a writable place.") from None


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # it is gone already, or something is in it
