"""Writes what a comparison found into its folder: JSON, Markdown, CSV, and the plot."""

from __future__ import annotations

import json

from connectomics_zoo.compare.folder import RESULT, write_json
from connectomics_zoo.compare.plot import draw_comparison
from connectomics_zoo.compare.report import CompareReport
from connectomics_zoo.compare.tables import csv_text, markdown
from connectomics_zoo.files.atomic import write_text


def write_results(report: CompareReport, *, picture: bool) -> None:
    """Write the table, and the plot where it is asked for and something has a score; older ones are replaced.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = report.folder
    write_json(folder / f"{RESULT}.json", json.loads(json.dumps(report.to_dict())))
    write_text(folder / f"{RESULT}.md", markdown(report))
    write_text(folder / f"{RESULT}.csv", csv_text(report))
    if picture and any(row.scores for row in report.rows):
        draw_comparison(report, folder / f"{RESULT}.png")
