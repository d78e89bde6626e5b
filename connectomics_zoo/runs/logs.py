"""The CSV log of a run, in its folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from connectomics_zoo.runs.folder import LOG_FILE, LOGS


def set_log_aside(folder: Path, *, step: int) -> list[Mapping[str, str]]:
    """Return the rows before `step` of the log of a run that is resumed there, whose file Lightning begins anew.

    The file is kept under another name until `drop_old_logs`.
    """
    log = folder / LOG_FILE
    if log.is_file():
        log.replace(log.with_name(f"{log.stem}-until-{step:09d}{log.suffix}"))
    return [row for row in _read_rows(folder) if int(row["step"]) < step]


def drop_old_logs(folder: Path) -> None:
    """Remove what was set aside, whose rows are in the log again."""
    for path in (folder / LOGS).glob("metrics-until-*.csv"):
        path.unlink()


def read_series(folder: Path, column: str) -> list[tuple[int, float]]:
    """Return the (step, value) pairs of `column` in the CSV log of a run folder."""
    return sorted({int(row["step"]): float(row[column]) for row in _read_rows(folder) if row.get(column)}.items())


def read_scores(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return the pairs of steps done and validation score in the log of a run folder, 0 for before the first step.

    Lightning numbers a validation by the step before it, counted from 0, so that it would be confused with that one.
    """
    rows = [row for row in _read_rows(folder) if row.get(f"val/{metric}")]
    done = {int(row["step"]) + 1 if row.get("epoch") else 0: float(row[f"val/{metric}"]) for row in rows}
    return sorted(done.items())


def _read_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of all files, those of earlier stretches first.

    Of a step that was done twice, since the run was killed after its last checkpoint, the later rows count.
    """
    rows: list[dict[str, str]] = []
    # Until a resume has put all in one file, it is begun with the rows of the others.
    for log in sorted((folder / LOGS).glob("metrics*.csv"), key=lambda path: (path.name == Path(LOG_FILE).name, path)):
        with log.open(newline="", encoding="utf-8") as stream:
            later = [row for row in csv.DictReader(stream) if row.get("step")]
        if later:
            rows = [row for row in rows if int(row["step"]) < int(later[0]["step"])] + later
    return rows
