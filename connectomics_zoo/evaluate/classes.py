"""Scores of a prediction of several classes, one by one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate.blocks import blocks_of
from connectomics_zoo.evaluate.report import EvaluateReport
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.scores.classes import Truths, found_classes, true_classes
from connectomics_zoo.scores.scores import overlap_scores
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import LabelLook

_log = logging.getLogger(__name__)


def score_classes(
    predicted: Volume,
    truths: Truths,
    mask: Volume | None,
    *,
    task: TaskSpec,
    box: Box,
    offset: tuple[int, int, int],
    threshold: float | None,
    unlabelled: int | None,
    background: int | None,
    ignored: Sequence[int],
    annotated: Collection[str] | None,
) -> EvaluateReport:
    """Return the scores of every class, and their means over those that have a voxel in the truth.

    Raises:
        VolumeError: a volume cannot be read, nothing in it is annotated, a truth is no label volume, or a threshold was
            asked for of labels.
        SpecError: a threshold was asked for where classes exclude each other.
    """
    if task.decode.method == "argmax" and threshold is not None:
        raise SpecError("the classes exclude each other, and the likeliest one is scored: leave the threshold out.")
    if threshold is not None:
        if predicted.content == "label":
            raise VolumeError(
                f"{predicted.location}: holds labels, as the file says, and a threshold is for probabilities: leave it "
                "out."
            )
        task = task.model_copy(update={"decode": task.decode.model_copy(update={"threshold": threshold})})
    looks = {name: LabelLook(() if unlabelled is None else (unlabelled,)) for name in truths}
    counts, voxels = np.zeros((len(task.channels), 3), np.int64), 0
    for block in blocks_of(box):
        found = found_classes(predicted, block.relative_to(offset), task=task)
        targets = true_classes(
            truths,
            mask,
            block,
            task=task,
            unlabelled=unlabelled,
            background=background,
            ignored=ignored,
            annotated=annotated,
            looks=looks,
        )
        true, known = targets.values > 0.5, targets.known
        for column, group in enumerate((found & true, found & ~true, ~found & true)):
            counts[:, column] += np.count_nonzero(group & known, axis=(1, 2, 3))
        voxels += int(np.count_nonzero(np.logical_or.reduce(known)))
    where = ", ".join(volume.location for volume in truths.values())
    if voxels == 0:
        raise VolumeError(f"{where}: annotates no class in all of {box}, so nothing can be scored: give another part.")
    for name, look in looks.items():
        for problem in look.check(truths[name].dtype, location=truths[name].location):
            _log.warning("%s: %s; it is scored all the same.", truths[name].location, problem)
    scored = [index for index in task.scored if annotated is None or task.channels[index].name in annotated]
    classes = {task.channels[index].name: _scores(counts[index].tolist()) for index in scored}
    cut = None if task.decode.method == "argmax" or predicted.content == "label" else task.decode.cut
    return EvaluateReport(
        prediction=predicted.location,
        truth=where,
        skeletons=None,
        kind="semantic",
        read_as="classes, as the file says" + ("" if cut is None else f", each above {cut:g}"),
        threshold=cut,
        mask=None if mask is None else mask.location,
        region=box.ranges,
        voxels=voxels,
        ignored_voxels=box.voxels - voxels,
        scores=_means(classes),
        classes=dict(classes),
    )


def _scores(counts: Sequence[int]) -> dict[str, float]:
    """Return the scores of a class, and its voxels in the truth."""
    hits, false_alarms, misses = counts
    scores = overlap_scores(true_positive=hits, false_positive=false_alarms, false_negative=misses)
    return {**scores, "voxels": hits + misses}


def _means(classes: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the classes that are in the truth, or over all where none is."""
    there = [scores for scores in classes.values() if scores["voxels"]] or list(classes.values())
    return {name: float(np.mean([scores[name] for scores in there])) for name in there[0] if name != "voxels"}
