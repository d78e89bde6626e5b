"""The CSV logs of a run, in its folder: a file for each stretch, from the start or a resume to the next one."""

from __future__ import annotations

import csv
from pathlib import Path

from connectomics_zoo.runs.folder import LOG_FILE, LOGS


def keep_log(folder: Path, *, step: int) -> None:
    """Rename the CSV log of a run that is resumed after `step`: Lightning would begin it anew."""
    log = folder / LOG_FILE
    if log.is_file():
        log.replace(log.with_name(f"{log.stem}-until-{step:09d}{log.suffix}"))


def read_series(folder: Path, column: str) -> list[tuple[int, float]]:
    """Return the (step, value) pairs of `column` in the CSV logs of a run folder.

    Of a step that was done twice, since the run was killed after its last checkpoint, the later value counts.
    """
    values: dict[int, float] = {}
    for log in sorted((folder / LOGS).glob("metrics*.csv")):
        with log.open(newline="", encoding="utf-8") as stream:
            rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(stream) if row.get(column)]
        if rows:
            values = {step: value for step, value in values.items() if step < rows[0][0]} | dict(rows)
    return sorted(values.items())
