"""The lock of a folder: one process at a time trains in a run, or works on the blocks of a job.

It is a file that says which process holds it, and so works where several machines share a file system. The lock of a
process that is gone is taken over, which only its own machine can tell, or SLURM, which has started its job again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from connectomics_zoo.errors import OutputError, reason
from connectomics_zoo.runs.folder import LOCK_FILE
from connectomics_zoo.runs.process import Process, find_state, this_process
from connectomics_zoo.schema.base import Node

INSTEAD = "choose another folder with --output"

_LOOK = 0.1
"""Seconds after which a lock that is waited for is looked at again."""

TAKEOVER = ".takeover"
"""Ends the name of the lock under which the lock of a process that is gone is taken over."""


class Holder(Node):
    """Who holds a lock."""

    process: Process
    """The process."""
    since: str
    """When it took the lock: date, time and offset from UTC."""
    token: str
    """Tells this lock from any other that the process takes."""


@contextmanager
def lock_folder(folder: Path, *, instead: str = INSTEAD, wait_s: float = 0) -> Iterator[None]:
    """Hold the lock of a folder during the block.

    Args:
        folder: the folder.
        instead: what a user may do whose program finds it held.
        wait_s: seconds for which it is waited for.

    Raises:
        OutputError: another process holds it or may hold it, it is damaged, or the folder cannot be written.
    """
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    mine = Holder(process=this_process(), since=now, token=uuid.uuid4().hex)
    path = folder / LOCK_FILE
    try:
        try:
            _take(path, mine, instead=instead, wait_s=wait_s)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written ({reason(error)}), make it writable or choose another folder."
            ) from None
        yield
    finally:
        _release(path, mine)


def is_lock(name: str) -> bool:
    """Whether a file of this name in a run folder is its lock, or what a process makes on the way to it."""
    return name == LOCK_FILE or name.startswith(f"{LOCK_FILE}.")


def holder_of(folder: Path) -> Holder | None:
    """Return who holds the lock of a folder; None where nobody does, or a process that is gone.

    Raises:
        OutputError: there is a file in its place that is none.
    """
    holder = _read(folder / LOCK_FILE)
    gone = holder is not None and find_state(holder.process, named_in=folder) == "gone"
    return None if gone else holder


def refuse_held(folder: Path, *, instead: str = INSTEAD) -> None:
    """Refuse to go on where another process holds the lock of a folder.

    Raises:
        OutputError: it does.
    """
    holder = _read(folder / LOCK_FILE)
    if holder is not None:
        _refuse_unless_gone(holder, folder / LOCK_FILE, instead=instead)


def _take(path: Path, mine: Holder, *, instead: str, wait_s: float = 0) -> None:
    end = time.monotonic() + wait_s
    while not _create(path, mine):
        holder = _read(path)
        if holder is None:
            continue  # released meanwhile
        try:
            _refuse_unless_gone(holder, path, instead=instead)
        except OutputError:
            if time.monotonic() >= end:
                raise
            time.sleep(_LOOK)
            continue
        if _take_over(path, holder, mine, instead=instead):
            return


def _create(path: Path, mine: Holder) -> bool:
    """Make the file of a lock, whole at once; return False where there is one."""
    text = mine.model_dump_json()
    draft = path.with_name(f"{path.name}.{mine.token}")
    try:
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)  # one process alone makes it, on NFS too
        except FileExistsError:
            return False
        except OSError:  # the file system has no links
            return _create_in_place(path, text)
        return True
    finally:
        draft.unlink(missing_ok=True)


def _create_in_place(path: Path, text: str) -> bool:
    """Make the same where there are no links; for a moment it is empty."""
    try:
        path.touch(exist_ok=False)  # O_CREAT | O_EXCL: one process alone makes it
    except FileExistsError:
        return False
    try:
        path.write_text(text, encoding="utf-8")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path, gone: Holder, mine: Holder, *, instead: str) -> bool:
    """Put our lock in the place of that of a process that is gone; return False where that is not there any more.

    Who does so holds a lock of its own for it. Of two who have both seen the old one, the second would otherwise
    replace what the first has put there.
    """
    guard = path.with_name(path.name + TAKEOVER)
    _take(guard, mine, instead=instead)
    try:
        if _read(path) != gone:
            return False
        guard.replace(path)
        return True
    finally:
        _release(guard, mine)


def _release(path: Path, mine: Holder) -> None:
    if os.getpid() != mine.process.pid:
        return  # a forked child leaves the block, and its parent goes on
    # Where the folder was deleted, or the lock by hand, there is nothing to release.
    with contextlib.suppress(OSError):
        if _text(path) == mine.model_dump_json():
            path.unlink()


def _read(path: Path) -> Holder | None:
    """Return who holds a lock, None where there is none.

    Raises:
        OutputError: the file is no lock.
    """
    try:
        return Holder.model_validate_json(_text(path))
    except FileNotFoundError:
        return None
    except ValueError:
        raise OutputError(
            f"{path}: is no lock of this program, or damaged: delete it if nothing is at work in {path.parent}."
        ) from None


def _text(path: Path) -> str:
    """Return the content of a lock; of a link, folder or pipe in its place, what no lock holds."""
    return path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(path.lstat().st_mode) else "no file"


def _refuse_unless_gone(holder: Holder, path: Path, *, instead: str) -> None:
    state = find_state(holder.process, named_in=path.parent)
    if state == "gone":
        return
    process, job = holder.process, holder.process.job
    held = f"{path.parent}: is in use by the process {process.pid} on {process.host} since {holder.since}"
    if state == "running":
        raise OutputError(f"{held}, wait until that ends or {instead}.")
    look = "" if job is None else f" (squeue --job {job.number} shows it as long as it runs)"
    raise OutputError(
        f"{held}, which cannot be checked from here{look}: wait until that ends, {instead}, "
        f"or delete {path} if it is gone."
    )
