"""Decides what the values of a prediction mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.scores.contingency import Contingency
from connectomics_zoo.volumes import StoredPrediction, Volume
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.values import as_byte

ScoreKind = Literal["semantic", "instances"]

OBJECTS = "objects, one for each label"


@dataclass(frozen=True)
class Reading:
    """What the prediction's values mean."""

    kind: ScoreKind
    text: str
    above: float | None
    """Foreground is what lies above; None for class labels and instances."""
    threshold: float | None = None
    """Of probabilities, the one above which the foreground lies."""


def interpret(
    predicted: Volume,
    table: Contingency,
    *,
    kind: ScoreKind | None,
    threshold: float | None,
    cut: float | None,
    stored: StoredPrediction,
    look: LabelLook,
) -> Reading:
    """Decide what is scored from what the file says, the data type and the numbers of labels, or refuse to guess.

    Args:
        predicted: the prediction.
        table: its labels, and those of the truth.
        kind: what is to be scored, None for what it is.
        threshold: what was asked for.
        cut: what floats were cut at; None where there are none.
        stored: what the prediction says of itself: the threshold where none was asked for, and the scale of uint8.
        look: what the prediction's values look like.
    """
    if cut is not None:
        if kind == "instances":
            raise VolumeError(
                f"{predicted.location}: holds {predicted.dtype}, and instances are whole numbers: make objects first "
                "(zoo decode), or score the foreground (--kind semantic)."
            )
        source = ", as the file says" if predicted.content == "probability" else ""
        return Reading("semantic", f"probabilities{source}, foreground above {cut:g}", 0, cut)
    if threshold is not None and predicted.content in ("label", "instances"):
        held = "objects" if predicted.content == "instances" else "labels"
        raise VolumeError(
            f"{predicted.location}: holds {held}, as the file says, and a threshold is for probabilities: leave it out."
        )
    if predicted.content == "instances":
        return _declared_objects(kind)
    is_bytes, highest = predicted.dtype == np.uint8, int(table.prediction.max())
    if threshold is not None and not is_bytes and highest > 1:
        raise VolumeError(
            f"{predicted.location}: holds {predicted.dtype} up to {highest}, and a threshold is for probabilities "
            "(floats, or uint8 with 255 for 1) or a mask: leave it out."
        )
    if predicted.content == "probability":
        if kind == "instances":
            raise VolumeError(
                f"{predicted.location}: holds probabilities, as the file says, and instances are labels: make objects "
                "first (zoo decode), or score the foreground (--kind semantic)."
            )
        return _bytes_above(threshold, stored, source=", as the file says")
    is_label = predicted.content == "label"
    several = min(len(np.unique(table.prediction)), len(np.unique(table.truth))) > 2
    if kind is None and threshold is None and several and is_bytes:
        raise VolumeError(
            f"{predicted.location}: holds uint8 up to {highest} against a truth with more than two labels, which can "
            f"be {'' if is_label else 'probabilities, '}classes or objects: give "
            f"{'' if is_label else '--threshold 0.5, '}--kind semantic or --kind instances."
        )
    if kind == "instances" or (kind is None and threshold is None and several):
        return Reading("instances", OBJECTS, None)
    if several and threshold is None:
        return Reading("semantic", "classes, one for each label", None)
    if is_bytes and highest > 1 and not is_label:
        return _undeclared_bytes(predicted, kind=kind, threshold=threshold, stored=stored, look=look)
    return Reading("semantic", f"{'labels, as the file says' if is_label else 'a mask'}, foreground above 0", 0)


def _undeclared_bytes(
    predicted: Volume, *, kind: ScoreKind | None, threshold: float | None, stored: StoredPrediction, look: LabelLook
) -> Reading:
    """Read uint8 beyond 1 that does not say what it holds as probabilities, unless it looks like labels."""
    held = "probability" if threshold is not None else look.bytes_hold()
    if held == "probability":
        return _bytes_above(threshold, stored, source="")
    if held == "unclear" and kind is None:
        raise VolumeError(
            f"{predicted.location}: holds uint8 up to {max(look.values)} with hard edges, which can be labels or "
            "probabilities: give --kind semantic for labels, or --threshold 0.5 for probabilities."
        )
    return Reading("semantic", f"labels ({len(look.values)} values with hard edges), foreground above 0", 0)


def _declared_objects(kind: ScoreKind | None) -> Reading:
    """Read objects as such, few or none as they may be, or where asked for as the foreground that they make up."""
    if kind == "semantic":
        return Reading("semantic", "objects, as the file says, foreground above 0", 0)
    return Reading("instances", f"{OBJECTS}, as the file says", None)


def _bytes_above(threshold: float | None, stored: StoredPrediction, *, source: str) -> Reading:
    """Read uint8 as probabilities; `source` says where that is known from."""
    cut = stored.cut if threshold is None else threshold
    above = as_byte(cut, scale=stored.first_scale)
    text = f"probabilities in uint8{source}, foreground above {cut:g} ({above:g} of 255)"
    return Reading("semantic", text, above, cut)
