"""What became of each tensor of the weights that a run started from, in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.runs.folder import LOAD_REPORT_FILE


def write_load_report(
    folder: Path,
    *,
    source: str,
    exact: Sequence[str],
    adapted: Mapping[str, str],
    reinitialised: Sequence[str],
    dropped: Sequence[str],
) -> None:
    """Write the report into a run folder; its fields are those of `LoadReport`.

    Raises:
        OutputError: the folder cannot be written.
    """
    content = {
        "source": source,
        "exact": exact,
        "adapted": adapted,
        "reinitialised": reinitialised,
        "dropped": dropped,
    }
    write_text(folder / LOAD_REPORT_FILE, json.dumps(content, indent=2) + "\n")
