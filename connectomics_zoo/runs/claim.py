"""Takes a run folder for one process: for a new run, or to go on with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from connectomics_zoo.errors import OutputError
from connectomics_zoo.runs.checkpoint import check_resumable, has_checkpoint
from connectomics_zoo.runs.folder import LOCK_FILE, SPEC_FILE, WEIGHTS_FILE, require_run
from connectomics_zoo.runs.lock import is_lock, lock_folder


@contextmanager
def claim_new(folder: Path) -> Iterator[None]:
    """Make the folder of a new run, and hold its lock during the block; if nothing was written, it is taken away again.

    Raises:
        OutputError: something is in it, it is in use, or it cannot be made.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise _in_the_way(folder) from None
        except OSError as error:
            raise OutputError(
                f"{folder}: the run folder cannot be made ({error.strerror}), choose another one."
            ) from None
        with lock_folder(folder):
            if not all(is_lock(item.name) for item in folder.iterdir()):
                raise _in_the_way(folder)
            yield
    finally:
        for place in made:
            with suppress(OSError):  # there is something in it
                place.rmdir()


@contextmanager
def claim_resumed(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder during the block, in which the run goes on.

    Raises:
        UnknownNameError: it is no run folder, or has weights and no checkpoint.
        OutputError: it is in use, or cannot be written.
    """
    if not (folder / LOCK_FILE).exists():
        require_run(folder)  # no lock is put into a folder that is none
    with lock_folder(folder):  # first: of a run that has just begun, there is nothing else yet
        require_run(folder)
        check_resumable(folder)
        yield


def _in_the_way(folder: Path) -> OutputError:
    can_resume = (folder / SPEC_FILE).is_file() and (has_checkpoint(folder) or not (folder / WEIGHTS_FILE).exists())
    advice = f" or resume it with zoo train {folder} --resume" if can_resume else ""
    return OutputError(f"{folder} exists and is not empty, choose another folder{advice}.")
