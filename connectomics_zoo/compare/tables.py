"""Tables as text for pages and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

from connectomics_zoo.compare.report import CompareReport, deviation
from connectomics_zoo.schema.report import Table


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()) -> str:
    """Return a table of Markdown, whose columns are aligned to the right but for those of the headers in `left`."""
    rule = ["---" if header in left else "--:" for header in headers]
    lines = [[_cell(text) for text in row] for row in (headers, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(report: CompareReport) -> str:
    """Return the table of a comparison, and the lines below it as a list."""
    table: Table = report.table()
    notes = "\n".join(f"* {line}" for line in report.notes())
    return f"{markdown_table(table.headers, table.rows, left=('reference',))}\n\n{notes}\n"


def csv_text(report: CompareReport) -> str:
    """Return the numbers of a comparison, a line for each reference; of scores, mean and standard deviation."""
    names = list(dict.fromkeys(name for row in report.rows for name in row.scores))
    chosen = list(dict.fromkeys(name for row in report.rows for name in row.chosen))
    scores = [f"{name}_{part}" for name in names for part in (report.scored_as, "sd")]
    choosing = [f"{name}_validation_{part}" for name in chosen for part in ("chosen_on", "sd")]
    plain = ("parameters", "steps", "training_memory_bytes", "prediction_memory_bytes", "voxels_per_second", "seen")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["reference", "seeds", *scores, *choosing, "minutes", *plain, "error"])
    for row in report.rows:
        numbers = [_mean_and_spread(row.scores.get(name, ())) for name in names]
        numbers += [_mean_and_spread(row.chosen.get(name, ())) for name in chosen]
        writer.writerow(
            [
                row.ref,
                len(row.seeds),
                *(number for pair in numbers for number in pair),
                _mean_and_spread(row.minutes)[0],
                *(getattr(row, name) for name in plain),
                row.error,
            ]
        )
    return stream.getvalue()


def _mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return sum(values) / len(values), deviation(values) if len(values) > 1 else None


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
