"""Scores trained weights on volumes: predicted as `zoo predict` does it, and counted in the volume's own voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.compare.data import single_regions
from connectomics_zoo.decode.run import decode
from connectomics_zoo.evaluate.run import evaluate
from connectomics_zoo.files.atomic import remove_folder
from connectomics_zoo.predict.run import predict
from connectomics_zoo.schema.experiment import DataSpec, VolumePair
from connectomics_zoo.schema.progress import silent
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.scores.scores import balanced_accuracy, overlap_scores
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.tasks.targets.labels import is_mask
from connectomics_zoo.volumes import Volume, open_volume
from connectomics_zoo.volumes.box import Box, region_box
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.truth import read_truth

SLAB = 64
"""Sections that are counted at a time."""

OBJECT_SCORES = ("adapted_rand_error", "voi_split", "voi_merge", "ap_50")
"""What is said of objects, where the task makes some."""


@dataclass(frozen=True)
class Scored:
    """What weights scored, and how fast they predicted."""

    scores: dict[str, float]
    """By name: the task's metrics, and those of objects."""
    voxels_per_second: float | None
    """Of the volume, in prediction."""


def score(
    ref: str | Path, pairs: Sequence[VolumePair], data: DataSpec, *, task: TaskSpec, scratch: Path, device: str
) -> Scored:
    """Predict every pair and return the scores.

    The task's metrics are of all annotated voxels together, the mean over the channels that the task scores; those of
    objects are the mean over the pairs and their annotated regions, of what the task's own decoder makes.

    Args:
        ref: a run folder or trained weights.
        pairs: what is scored.
        data: the places of the pairs, and the label that means nothing.
        task: what is predicted; what is decoded is decoded as the weights' own task says.
        scratch: a folder for predictions, which is removed when all is scored.
        device: as for `predict`.
    """
    makes_objects = task.decode.is_instances
    counts = np.zeros((len(task.channels), 4), np.int64)
    objects: list[dict[str, float]] = []
    voxels = seconds = 0.0
    scratch.mkdir(parents=True, exist_ok=True)
    parts = [part for pair in pairs for part in single_regions(pair)]
    for number, pair in enumerate(parts):
        prediction = scratch / f"prediction-{number}.h5"
        with closing(PairReader(pair, data)) as reader:
            report = predict(
                ref,
                reader.image.location,
                prediction,
                region=pair.region,
                voxel_size_nm=reader.image.voxel_size_nm,  # and not the one that the weights would take it to be
                device=device,
                dtype="uint8" if makes_objects else "float32",
                overwrite=True,  # what a killed comparison has left
                progress=silent,
            )
            box = region_box(pair.region, shape=reader.image.shape, location=reader.image.location)
            if report.voxels_per_second:
                voxels, seconds = voxels + box.voxels, seconds + box.voxels / report.voxels_per_second
            with open_volume(prediction) as predicted:
                for values, targets, known in _slabs(predicted, reader, box, task=task):
                    counts += _count(values, targets, known, task=task)
            if makes_objects:
                objects.append(_object_scores(prediction, pair, reader, box, task=task))
    remove_folder(scratch)
    scores = _metrics(counts, task=task)
    for name in OBJECT_SCORES if objects else ():
        scores[name] = sum(row[name] for row in objects) / len(objects)
    return Scored(scores, voxels / seconds if seconds else None)


def _slabs(
    predicted: Volume, reader: PairReader, box: Box, *, task: TaskSpec
) -> Iterator[tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield predicted values, targets and where these are known, each (C, Z, Y, X), some sections at a time."""
    for first in range(box.start[0], box.stop[0], SLAB):
        slab = box.replace(z=(first, min(box.stop[0], first + SLAB)))
        values: NDArray[Any] = predicted.read(slab.relative_to(box.start))
        values = values if values.ndim == 4 else values[np.newaxis]
        if values.dtype == np.uint8:
            values = values.astype(np.float32) / np.float32(255)
        truth = reader.read_volume_truth(slab)
        targets = make_targets(
            truth.labels,
            task=task,
            voxel_size_nm=reader.image.voxel_size_nm,
            annotated=truth.annotated,
            volumes=tuple(reader.labels),
            classes=reader.pair.annotated,
        )
        yield values, targets.values, targets.known


def _count(
    values: NDArray[Any], targets: NDArray[np.float32], known: NDArray[np.bool_], *, task: TaskSpec
) -> NDArray[np.int64]:
    """Return true positives, false positives, false negatives and true negatives of each channel, (C, 4)."""
    if task.decode.method == "argmax":
        found = values.argmax(axis=0)[np.newaxis] == np.arange(len(values)).reshape(-1, 1, 1, 1)
    else:
        found = values > task.decode.cut
    truth = targets > 0.5
    groups = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
    return np.stack([(group & known).sum(axis=(1, 2, 3)) for group in groups], axis=1)


def _metrics(counts: NDArray[np.int64], *, task: TaskSpec) -> dict[str, float]:
    """Return the task's metrics as validation in training has them, the mean over scored channels that are known.

    Of several classes, those alone that have a voxel count, unless none has one; each has its first metric as well.
    """
    known = [index for index in task.scored if counts[index].any()]
    there = [index for index in known if task.has_classes and counts[index, [0, 2]].any()]
    rows = {}
    for index in there or known or task.scored:
        hits, false_alarms, misses, rejections = counts[index].tolist()
        found = {"true_positive": hits, "false_positive": false_alarms, "false_negative": misses}
        balanced = balanced_accuracy(**found, true_negative=rejections)
        rows[task.channels[index].name] = {**overlap_scores(**found), "balanced_accuracy": balanced}
    scores: dict[str, float] = {name: sum(row[name] for row in rows.values()) / len(rows) for name in task.metrics}
    if there:
        scores |= {f"{task.metrics[0]}_{name}": row[task.metrics[0]] for name, row in rows.items()}
    return scores


def _object_scores(
    prediction: Path, pair: VolumePair, reader: PairReader, box: Box, *, task: TaskSpec
) -> dict[str, Any]:
    """Return the scores of the objects that the decoder makes of a prediction."""
    label = reader.labels[task.channels[task.scored[0]].target.volume]
    objects = prediction.with_stem(f"{prediction.stem}-objects")
    decode(prediction, objects, overwrite=True, progress=silent)
    return evaluate(
        objects,
        label.location,
        kind="instances",
        region=pair.region,
        relabel=task.labels.relabel and is_mask(_annotated(reader, label, box)),
        unlabelled=reader.data.unlabelled,
        background=reader.data.background,
        mask=None if reader.mask is None else reader.mask.location,
    ).scores


def _annotated(reader: PairReader, label: Volume, box: Box) -> NDArray[Any]:
    """Return the labels of one label volume in a box, 0 where not annotated."""
    unlabelled, background = reader.data.unlabelled, reader.data.background
    return read_truth(label, reader.mask, box, unlabelled=unlabelled, background=background).labels
