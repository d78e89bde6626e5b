"""What a prediction of several classes has of each, and what is true of it: the prediction says its classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import SpecError, nearest
from connectomics_zoo.schema.task import LabelSpec, TaskSpec
from connectomics_zoo.tasks.targets import Targets, make_targets
from connectomics_zoo.tasks.voxelwise import decode_voxels
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.truth import join_truths, read_truth
from connectomics_zoo.volumes.values import read_prediction

VOXELWISE = ("foreground", "background", "class", "presynapse", "postsynapse")
"""The kinds of target that each voxel has by itself."""

Truths = Mapping[str | None, Volume]
"""The label volumes of a truth by name, None for one alone."""


def classes_of(predicted: Volume) -> TaskSpec | None:
    """Return the task of a prediction that says that it has several classes, and None for any other."""
    task = predicted.stored().task
    if task is None or not task.has_classes or any(c.target.kind not in VOXELWISE for c in task.channels):
        return None
    if predicted.content == "label" and task.decode.method == "argmax":
        return task if predicted.channels in (None, 1) else None
    return task if predicted.channels == len(task.channels) else None


def check_truths(names: Collection[str | None], *, task: TaskSpec, annotated: Collection[str] | None) -> None:
    """Refuse a truth that is not what the classes are made of.

    Args:
        names: of its label volumes, None for one alone.
        task: what the prediction is of.
        annotated: the channels that the truth annotates, None for all.

    Raises:
        SpecError: it has other label volumes, or lacks one; or there is no such class.
    """
    channels = [channel.name for channel in task.channels]
    for name in annotated or ():
        if name not in channels:
            raise SpecError(f"the prediction has no class {name!r} that could be annotated: {nearest(name, channels)}")
    wanted = ", ".join(task.volumes)
    if task.volumes and None in names:
        raise SpecError(
            f"the prediction has classes that are made of several label volumes ({wanted}), and the truth is one: give "
            f"each, as {task.volumes[0]}=FILE:DATASET (--truth)."
        )
    for volume in names:
        if volume is not None and volume not in task.volumes:
            way = nearest(volume, task.volumes) if task.volumes else "give one truth without a name."
            raise SpecError(f"the prediction has no classes that are made of a label volume {volume!r}: {way}")
    for channel in task.channels:
        if (annotated is None or channel.name in annotated) and channel.target.volume not in names:
            raise SpecError(
                f"the truth lacks the label volume {channel.target.volume} of the class {channel.name!r}: give it, or "
                "say what is annotated (--annotated)."
            )


def found_classes(predicted: Volume, block: Box, *, task: TaskSpec) -> NDArray[np.bool_]:
    """Return where the prediction has each class (C, Z, Y, X)."""
    if predicted.content == "label":
        labels = predicted.read(block)
        labels = labels if labels.ndim == 4 else labels[np.newaxis]
    else:
        labels = decode_voxels(read_prediction(predicted, block, task=task), task=task)
    if task.decode.method != "argmax":
        return labels > 0
    numbers = np.arange(len(task.channels))[:, np.newaxis, np.newaxis, np.newaxis]
    found: NDArray[np.bool_] = labels == numbers
    return found


def true_classes(
    truths: Truths,
    mask: Volume | None,
    block: Box,
    *,
    task: TaskSpec,
    unlabelled: int | None = None,
    background: int | None = None,
    ignored: Sequence[int] = (),
    annotated: Collection[str] | None = None,
    looks: Mapping[str | None, LabelLook] | None = None,
) -> Targets:
    """Return what is true of each class, and where that is known, both (C, Z, Y, X); `looks` see the labels."""
    parts = []
    for name, volume in truths.items():
        part = read_truth(volume, mask, block, unlabelled=unlabelled, background=background, ignored=ignored)
        if looks is not None:
            looks[name].add(volume.read_plain(block), part.annotated)
        for label in ignored:
            part.annotated[part.labels == label] = False
        parts.append(part)
    truth = join_truths(parts)
    return make_targets(
        truth.labels,
        task=task.model_copy(update={"labels": LabelSpec()}),  # as it is, not as it is trained on
        voxel_size_nm=None,
        annotated=truth.annotated,
        volumes=tuple(truths),
        classes=annotated,
    )
