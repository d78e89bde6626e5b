"""One download at a time: what it comes to is shared by all loads that waited for it, success or failure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectomics_zoo.errors import HubError, OutputError
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.hub.client import cache_folder, explained

_LONGEST_NOTE = 2000


@contextmanager
def in_turn(repo: str, digest: str, *, subject: str) -> Iterator[None]:
    """Wait until no other process or thread downloads or mends the file; beside the client's own lock.

    Where eight loads wait for each other and the Hub is busy, their waits do not add up: the first one's failure is
    noted beside the lock, and those that were waiting then fail with it. A load that begins later asks anew.

    Args:
        repo: `org/name`.
        digest: that of the file.
        subject: what is loaded, for errors.

    Raises:
        HubError: the load that this one waited for failed.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # it is, lazily

    folder = cache_folder(repo)
    path = folder.parent / ".locks" / folder.name / f"{digest}.checked.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_suffix(".failed")
    before = _read(note)
    with WeakFileLock(path):
        now = _read(note)
        if now not in ("", before):
            raise HubError(f"{subject}: the load that this one waited for failed: {now.partition(' ')[2]}")
        try:
            with explained(subject):
                yield
        except HubError as error:
            with contextlib.suppress(OSError, OutputError):  # on a full disk each has to find out for itself
                write_text(note, f"{os.urandom(8).hex()} {str(error).removeprefix(f'{subject}: ')}")
            raise
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def _read(note: Path) -> str:
    """Return the number and the sentence of the last failure, nothing where there was none."""
    try:
        with note.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_NOTE)
    except OSError:
        return ""
