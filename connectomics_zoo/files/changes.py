"""Files that will change: planned as texts, then put in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.errors import OutputError


@dataclass(frozen=True)
class FileChange:
    """A file that is not as it is recorded."""

    path: Path
    """The file."""
    text: str
    """What it will hold."""
    reasons: tuple[str, ...]
    """What changes in it, one line each."""


def write(changes: Sequence[FileChange]) -> None:
    """Put the texts of `changes` in place, each file at once.

    Raises:
        OutputError: a place cannot be written.
    """
    for change in changes:
        partial = change.path.with_name(f".{change.path.name}.partial-{os.getpid()}")
        try:
            change.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(change.text, encoding="utf-8")
                partial.replace(change.path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{change.path}: cannot be written ({error.strerror}), make it writable.") from None
