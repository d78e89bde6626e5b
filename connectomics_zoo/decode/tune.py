"""Tries settings of a decoder on data with truth: a small grid for each method, and then around the best."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.channels import Channels
from connectomics_zoo.decode.methods import segment
from connectomics_zoo.errors import CheckFailedError, VolumeError
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.scores.contingency import Contingency, count_pairs, leave_out
from connectomics_zoo.scores.scores import partition_scores
from connectomics_zoo.volumes.label_look import LabelLook, is_one_of

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

HALF_STEP = 0.05
"""Between these thresholds; the best one is tried once more as far up and down."""

WATERSHED_GRID = {
    "threshold": (0.3, 0.5, 0.7),
    "seed_threshold": (0.7, 0.8, 0.9, 0.95),
    "boundary_threshold": (0.2, 0.4, 0.6, 0.8),
}

_DIGITS = 6
"""Of the scores that decide; beyond them, two settings are equal."""


@dataclass(frozen=True)
class Trial:
    """One setting, and how good its objects are."""

    settings: dict[str, Any]
    """The fields of the method."""
    adapted_rand_error: float
    """0 is best."""
    voi: float
    """Variation of information in bits, 0 is best."""
    voi_split: float
    """Of it, objects that were cut."""
    voi_merge: float
    """Of it, objects that were joined."""
    objects: int
    """Objects that were found where the truth is annotated; without one, it cannot be the best."""


def grid_of(decode: DecodeSpec, *, has_boundary: bool) -> list[DecodeSpec]:
    """Return the settings to try: `decode` itself, then the method's grid; what the grid does not have stays."""
    grid: dict[str, tuple[float, ...]] = {"threshold": THRESHOLDS}
    if decode.method == "watershed":
        grid = dict(WATERSHED_GRID)
        if not has_boundary:
            del grid["boundary_threshold"]
    tried = [decode]
    for values in itertools.product(*grid.values()):
        candidate = decode.model_copy(update=dict(zip(grid, values, strict=True)))
        if candidate != decode:
            tried.append(candidate)
    return tried


def tune(
    channels: Channels,
    truth: NDArray[Any],
    annotated: NDArray[np.bool_],
    *,
    candidates: list[DecodeSpec],
    ignored: Sequence[int],
    location: str,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[DecodeSpec, list[Trial]]:
    """Return the best of `candidates` and of those around it (`finer`), and how each did.

    Best is the least adapted Rand error, then the least variation of information, then the first; a candidate that
    finds no object is not, whatever its scores. Where objects are
    few (the task has a foreground), the truth's background counts as one object, so that false ones cost; elsewhere
    it is no object and does not count.

    Args:
        channels: what is decoded.
        truth: labels (Z, Y, X), 0 for background.
        annotated: (Z, Y, X), False for voxels that count for no score.
        candidates: what is tried.
        ignored: voxels with these labels in the truth count for no score.
        location: of the truth, for errors.
        progress: is told how many settings have been tried.

    Raises:
        VolumeError: the truth has no object, or is a grey image.
        CheckFailedError: no candidate finds an object.
    """
    look = LabelLook(ignored)
    look.add(truth, annotated)
    if look.grey is not None:
        raise VolumeError(f"{location}: {look.grey}.")
    background = () if channels.foreground is not None else (0,)
    true_labels = truth[annotated]
    if is_one_of(true_labels, (0, *ignored)).all():
        raise VolumeError(
            f"{location}: has no object in this part{'' if annotated.all() else ', where it is annotated'}, so nothing "
            "can be tuned on it: give another one."
        )
    tried, trials = list(candidates), list[Trial]()
    if progress is not None:
        progress(Progress(0, len(tried), unit="settings"))
    for candidate in tried:  # which grows
        labels = segment(channels, decode=candidate)[annotated]
        table = leave_out(count_pairs(labels, true_labels), (*background, *ignored), truth=location)
        trials.append(_trial(candidate, table, objects=np.unique(labels[labels != 0]).size))
        if len(trials) == len(candidates):
            tried += [other for other in finer(tried[_best(trials)]) if other not in tried]
        if progress is not None:
            progress(Progress(len(trials), len(tried), unit="settings"))
    if not any(trial.objects for trial in trials):
        raise CheckFailedError(
            f"none of the {len(trials)} settings of {candidates[0].method} finds an object: look at the prediction, or "
            "give a smaller min_size or another --method."
        )
    return tried[_best(trials)], trials


def finer(decode: DecodeSpec) -> list[DecodeSpec]:
    """Return the settings half a step of the grid below and above, where the threshold alone was varied."""
    if decode.method == "watershed" or decode.threshold is None:
        return []
    around = (round(decode.threshold + by, _DIGITS) for by in (-HALF_STEP, HALF_STEP))
    return [decode.model_copy(update={"threshold": value}) for value in around if 0 < value < 1]


def _best(trials: Sequence[Trial]) -> int:
    scores = [
        (not trial.objects, round(trial.adapted_rand_error, _DIGITS), round(trial.voi, _DIGITS)) for trial in trials
    ]
    return scores.index(min(scores))


def _trial(decode: DecodeSpec, table: Contingency, *, objects: int) -> Trial:
    scores = partition_scores(table)
    return Trial(
        settings=decode.settings(),
        adapted_rand_error=scores["adapted_rand_error"],
        voi=scores["voi"],
        voi_split=scores["voi_split"],
        voi_merge=scores["voi_merge"],
        objects=objects,
    )
