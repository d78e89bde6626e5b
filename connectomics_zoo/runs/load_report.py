"""What became of each tensor of the weights that a run started from, in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import WeightsError, reason
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.runs.folder import LOAD_REPORT_FILE


def write_load_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the fields of a `LoadReport`, and the digest of the weights, into a run folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_text(folder / LOAD_REPORT_FILE, json.dumps(report, indent=2) + "\n")


def read_load_report(folder: Path) -> dict[str, Any]:
    """Return what `write_load_report` wrote.

    Raises:
        WeightsError: it is not there, or is not what `zoo train` writes.
    """
    path = folder / LOAD_REPORT_FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: says which tensors were loaded, and cannot be read ({reason(error)}): restore it, or train anew "
            "in another folder."
        ) from None
    assert isinstance(report, dict)
    return report


def loaded_tensors(folder: Path) -> frozenset[str]:
    """Return the tensors of the network that came with the weights that the run in `folder` started from.

    Raises:
        WeightsError: see `read_load_report`.
    """
    report = read_load_report(folder)
    return frozenset([*report["exact"], *report["adapted"]])
