"""What a comparison found: plain data, the table, and what a reader of the table should know."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo.schema.report import Report, Table

Seen = Literal["nothing", "chose", "trained"]

SHORT = {
    "dice": "Dice",
    "iou": "IoU",
    "balanced_accuracy": "balanced accuracy",
    "adapted_rand_error": "adapted Rand error",
    "voi_split": "VOI split",
    "voi_merge": "VOI merge",
    "ap_50": "AP at 0.5",
}
"""How the table calls scores, where their name is not what people say."""

MARKS: dict[Seen, str] = {"nothing": "", "chose": " *", "trained": " **"}
"""What stands behind scores of data that chose weights, or that these were trained on."""


@dataclass(frozen=True)
class Row:
    """What is known of one reference."""

    ref: str
    """The reference."""
    trained_here: bool
    """Whether the comparison trained it; trained weights are only scored."""
    folders: tuple[str, ...] = ()
    """The run folders, one a seed."""
    seeds: tuple[int, ...] = ()
    """The seeds that were scored; none of trained weights, which are scored once."""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By name, of each seed."""
    chosen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The validation score by which weights were chosen, by name and of each seed; empty where nothing chose."""
    seen: Seen = "nothing"
    """What the scored data were for the weights before: nothing, what chose them, or what they were trained on."""
    model: str = ""
    """The name of the network."""
    parameters: int | None = None
    """Of the network as it predicts."""
    patch_size: tuple[int, ...] = ()
    """Training patch in network voxels (z, y, x)."""
    batch_size: int | None = None
    """Patches a step."""
    steps: int | None = None
    """Optimiser steps of each run."""
    minutes: tuple[float, ...] = ()
    """What the steps of each seed took."""
    training_memory_bytes: int | None = None
    """By how much a fresh process grows in a step of training on a batch, gradients included."""
    prediction_memory_bytes: int | None = None
    """The same for a forward pass on one window."""
    voxels_per_second: float | None = None
    """Of the volume, in prediction: the mean over the seeds."""
    error: str | None = None
    """Why there are no scores, or not of every seed."""


@dataclass(frozen=True)
class CompareReport(Report):
    """A whole comparison."""

    folder: Path
    """Where run folders, table and plot are."""
    task: str
    """The name of the task."""
    budget: str
    """`30 steps` or `10 minutes`; empty where nothing was trained."""
    seeds: int
    """Seeds of each reference that is trained."""
    scored: tuple[str, ...]
    """The volumes that were scored, with their regions."""
    scored_as: Literal["test", "validation"]
    """What they are: a test that chose nothing, or the validation data, of which the last weights are scored."""
    rows: tuple[Row, ...]
    """In the order of the request."""
    machine: str
    """Where, when and with which versions it was measured."""

    @property
    def has_failed(self) -> bool:
        """Whether something was not trained or scored."""
        return any(row.error is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON, with the lines below the table."""
        return {**dataclasses.asdict(self), "folder": str(self.folder), "notes": self.notes()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompareReport:
        """Return the report that `to_dict` gave, also after a detour through JSON."""
        fields = {key: value for key, value in data.items() if key != "notes"}
        rows = tuple(Row(**_tuples(row)) for row in data["rows"])
        return cls(**{**fields, "folder": Path(data["folder"]), "rows": rows, "scored": tuple(data["scored"])})

    def table(self) -> Table:
        """Return a row for each reference; scores are mean ± standard deviation over the seeds."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.scores))
        chosen = list(dict.fromkeys(name for row in self.rows for name in row.chosen))
        headers = (
            "reference",
            *(f"{called(name)}, {self.scored_as}" for name in names),
            *(f"{called(name)}, validation (chose the weights)" for name in chosen),
            *(header for header, _ in COLUMNS),
        )
        return Table(headers, [self._cells(row, names, chosen) for row in self.rows])

    def _cells(self, row: Row, names: Sequence[str], chosen: Sequence[str]) -> tuple[str, ...]:
        if row.error is not None and not row.scores:
            scores = ["failed"] * min(1, len(names)) + ["-"] * (len(names) - 1)
        else:
            scores = [spread_text(row.scores.get(name, ())) + MARKS[row.seen] for name in names]
        choosing = [spread_text(row.chosen.get(name, ())) for name in chosen]
        return (row.ref, *scores, *choosing, *(cell(row) for _, cell in COLUMNS))

    def notes(self) -> list[str]:
        """Return the lines below the table: what scores are of, what they cannot tell, and what failed."""
        lines = [f"{row.ref}: {row.error}" for row in self.rows if row.error is not None]
        if not any(row.scores for row in self.rows):
            return lines
        lines += [self._scored_line(), *self._seen_lines(), *self._spread_lines(), *self._patch_lines()]
        return [*lines, f"Measured on {self.machine}."]

    def _scored_line(self) -> str:
        where = ", ".join(self.scored)
        if self.scored_as == "test":
            return f"Scores are of the test data ({where}), which chose nothing."
        return f"Scores are of the validation data ({where}) by the last weights of each run: it chose nothing."

    def _seen_lines(self) -> list[str]:
        says = {
            "chose": "* of data that chose the weights, or those that they started from",
            "trained": "** of data that the weights, or those that they started from, were trained on",
        }
        lines = []
        for seen, text in says.items():
            refs = [row.ref for row in self.rows if row.seen == seen and row.scores]
            if refs:
                lines.append(f"{text}, so that the score is too good: {', '.join(refs)}.")
        return lines

    def _spread_lines(self) -> list[str]:
        """Say which differences the seeds do not support, of the first score."""
        found = [(row, next(iter(row.scores.items()))) for row in self.rows if row.scores]
        if not any(row.trained_here for row, _ in found):
            return []
        if self.seeds == 1:
            return ["One seed says nothing of the spread: give more seeds (--seeds 3) before networks are ranked."]
        lines = []
        for (one, (name, first)), (other, (_, second)) in itertools.combinations(found, 2):
            difference = abs(statistics.fmean(first) - statistics.fmean(second))
            spread = max(deviation(first), deviation(second))
            if difference < spread:
                lines.append(
                    f"{one.ref} and {other.ref} differ by less than their spread ({called(name)}: {difference:.4f} of "
                    f"{spread:.4f})."
                )
        return lines

    def _patch_lines(self) -> list[str]:
        rows = [row for row in self.rows if row.trained_here and row.scores]
        sizes = {(row.patch_size, row.batch_size) for row in rows}
        if len(sizes) < 2:
            return []
        said = "; ".join(f"{row.ref}: {row.batch_size} of {' x '.join(map(str, row.patch_size))}" for row in rows)
        return [
            f"A step is not the same for all, patches are as each recipe has them ({said}): training.patch_size and "
            "training.batch_size make them equal."
        ]


def called(name: str) -> str:
    """Return what the table calls a score; `dice_er` is that of the class `er`."""
    if name in SHORT:
        return SHORT[name]
    metric = next((metric for metric in SHORT if name.startswith(f"{metric}_")), None)
    return name if metric is None else f"{SHORT[metric]} {name.removeprefix(f'{metric}_')}"


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def spread_text(values: Sequence[float]) -> str:
    """Return `0.8123 ± 0.0045`, or `0.8123` of a single value."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {deviation(values):.4f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}"


def _speed(row: Row) -> str:
    return "-" if row.voxels_per_second is None else f"{row.voxels_per_second / 1e3:.3g}"


def _minutes(row: Row) -> str:
    return f"{statistics.fmean(row.minutes):.3g}" if row.minutes else "-"


COLUMNS = (
    ("parameters", lambda row: _count(row.parameters)),
    ("steps", lambda row: _count(row.steps)),
    ("minutes", _minutes),
    ("train MB", lambda row: _megabytes(row.training_memory_bytes)),
    ("predict MB", lambda row: _megabytes(row.prediction_memory_bytes)),
    ("kvoxel/s", _speed),
)
"""The columns behind the scores, and what stands in them."""


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of JSON with tuples in the place of its lists."""
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    for key in ("scores", "chosen"):
        made[key] = {name: tuple(values) for name, values in row[key].items()}
    return made
