"""Files that will change: planned as texts, then put in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.files.atomic import output_errors, write_text


@dataclass(frozen=True)
class FileChange:
    """A file that is not as it is recorded."""

    path: Path
    """The file."""
    text: str
    """What it will hold."""
    reasons: tuple[str, ...]
    """What changes in it, one line each."""


def write_changes(changes: Sequence[FileChange]) -> None:
    """Put the texts of `changes` in place, each file at once.

    Raises:
        OutputError: a place cannot be written.
    """
    for change in changes:
        with output_errors(change.path):
            change.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(change.path, change.text)
