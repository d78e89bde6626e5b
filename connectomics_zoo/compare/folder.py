"""The folder of a comparison: what it was begun with, a folder a reference in it, and what was measured there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import OutputError, reason
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.runs.lock import is_lock, lock_folder

PLAN = "plan.json"
"""What the comparison was begun with."""

RESULT = "comparison"
"""The name of the table and the plot, before `.json`, `.md`, `.csv` and `.png`."""


@contextmanager
def hold(folder: Path, plan: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder of a comparison, or go on in it; in the block, its lock is held.

    Raises:
        OutputError: something else is in it, it was begun with another plan, is in use, or cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({reason(error)}), choose another folder.") from None
    try:
        with lock_folder(folder):
            _begin(folder, plan)
            yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _begin(folder: Path, plan: Mapping[str, Any]) -> None:
    before = read_json(folder / PLAN)
    if before is None:
        if not all(is_lock(item.name) for item in folder.iterdir()):
            raise OutputError(f"{folder} exists and is no comparison, choose another folder with --output.")
        write_json(folder / PLAN, plan)
        return
    for what, now in plan.items():
        if before.get(what) != now:
            raise OutputError(
                f"{folder}: was begun with {what} {_said(before.get(what))}, and not {_said(now)}: give the same, or "
                "choose another folder with --output."
            )


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what `write_json` has written, None where there is nothing, or something damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` into the folder, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
