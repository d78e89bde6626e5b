"""What became of each tensor of the weights that a run started from, in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.runs.folder import LOAD_REPORT_FILE


def write_load_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the fields of a `LoadReport` into a run folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_text(folder / LOAD_REPORT_FILE, json.dumps(report, indent=2) + "\n")
