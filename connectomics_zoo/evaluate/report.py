"""What an evaluation gives, and how its table calls the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from connectomics_zoo.evaluate.interpret import ScoreKind
from connectomics_zoo.schema.report import Report, Table
from connectomics_zoo.schema.svg import bars

NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "voxels": "voxels",
    "true_positive": "right voxels",
    "false_positive": "false voxels",
    "false_negative": "missed voxels",
    "adapted_rand_error": "adapted Rand error",
    "rand_precision": "Rand precision",
    "rand_recall": "Rand recall",
    "voi": "variation of information (bits)",
    "voi_split": "  of it splits",
    "voi_merge": "  of it merges",
    "cremi_score": "CREMI score",
    "ap_50": "AP at IoU 0.5",
    "ap_75": "AP at IoU 0.75",
    "precision_50": "object precision at IoU 0.5",
    "recall_50": "object recall at IoU 0.5",
    "f1_50": "object F1 at IoU 0.5",
    "panoptic_quality": "panoptic quality",
    "segmentation_quality": "mean IoU of matched objects",
    "objects_matched_50": "objects matched at IoU 0.5",
    "objects_predicted": "objects predicted",
    "objects_true": "objects in the truth",
    "erl_nm": "expected run length (nm)",
    "erl_of_truth_nm": "  of the truth (nm)",
    "nerl": "normalised expected run length",
    "edges": "skeleton edges",
    "edges_split": "  of them split",
    "edges_merged": "  of them in a merger",
    "edges_omitted": "  of them at label 0",
    "segments_merging": "segments that merge skeletons",
}
"""How the table calls each score."""

_BEST_AT_1 = {
    "dice",
    "iou",
    "precision",
    "recall",
    "rand_precision",
    "rand_recall",
    "ap_50",
    "ap_75",
    "precision_50",
    "recall_50",
    "f1_50",
    "panoptic_quality",
    "segmentation_quality",
    "nerl",
}
"""Scores from 0 to 1, of which 1 is best."""


@dataclass(frozen=True)
class EvaluateReport(Report):
    """The scores, and what they are scores of."""

    prediction: str
    """The prediction."""
    truth: str | None
    """The truth; None where there are skeletons alone."""
    skeletons: str | None
    """The skeletons."""
    kind: ScoreKind
    """`semantic`: the overlap of foregrounds or classes; `instances`: how objects were split, merged and found."""
    read_as: str
    """How the prediction's values were understood."""
    threshold: float | None
    """Of probabilities, the one above which the foreground lies."""
    mask: str | None
    """The mask of what is annotated in the truth."""
    region: tuple[tuple[int, int], ...]
    """What was scored, [first, stop) along z, y and x of the truth."""
    voxels: int
    """Voxels that count; of instances, for Rand error and variation of information."""
    ignored_voxels: int
    """Voxels that do not, because of their label in the truth, or of the mask."""
    scores: dict[str, float]
    """Score by name; with several classes, the means over them, or over those in the truth where they have names."""
    classes: Mapping[int, dict[str, float]] | Mapping[str, dict[str, float]]
    """With several classes, the scores of each one but 0 or background, by its label or its name."""

    @property
    def has_named_classes(self) -> bool:
        """Whether the prediction has said which classes it has."""
        return any(isinstance(name, str) for name in self.classes)

    def picture(self) -> str:
        """Return the scores that are best at 1, and of several classes, the first one of each class."""
        rows = [(NAMES[name], value, _number(value)) for name, value in self.scores.items() if name in _BEST_AT_1]
        first = next((name for name in self.scores if name in _BEST_AT_1), None)
        if first is not None:
            rows += [(f"{NAMES[first]} of {name}", s[first], _number(s[first])) for name, s in self.classes.items()]
        return bars([row for row in rows if math.isfinite(row[1])])

    def table(self) -> Table:
        """Return a row for each score, or for each of the classes that have names."""
        if self.has_named_classes:
            return self._table_of_classes()
        headers = ("score", "mean" if self.classes else "value", *(f"class {label}" for label in self.classes))
        rows = [
            (NAMES[name], _number(value), *(_number(scores[name]) for scores in self.classes.values()))
            for name, value in self.scores.items()
        ]
        return Table(headers, rows)

    def _table_of_classes(self) -> Table:
        names = [*self.scores, "voxels"]
        rows = [(str(name), *(_number(scores[column]) for column in names)) for name, scores in self.classes.items()]
        absent = sum(scores["voxels"] == 0 for scores in self.classes.values())
        mean = f"mean of {len(rows) - absent}" if 0 < absent < len(rows) else "mean"
        rows.append((mean, *(_number(value) for value in self.scores.values()), ""))
        return Table(("class", *(NAMES[name] for name in names)), rows)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
