"""`evaluate`: a prediction on disk against the truth on disk, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate.contingency import Contingency, count_pairs, merge_pairs
from connectomics_zoo.evaluate.scores import class_scores, foreground_scores, instance_scores
from connectomics_zoo.regions import Box, box_shape, region_box
from connectomics_zoo.schema.experiment import Region
from connectomics_zoo.volumes import Volume, open_volume

BLOCK = (32, 512, 512)
"""Voxels (z, y, x) of both volumes that are in memory at a time."""

DEFAULT_THRESHOLD = 0.5

MAX_CLASSES = 256
"""More labels than this are objects, not classes."""

Kind = Literal["semantic", "instances"]


@dataclass(frozen=True)
class Report:
    """The scores, and what they are scores of."""

    prediction: str
    """The prediction."""
    truth: str
    """The truth."""
    kind: Kind
    """`semantic`: the overlap of foregrounds or classes; `instances`: how objects were split and merged."""
    read_as: str
    """How the prediction's values were understood."""
    region: tuple[tuple[int, int], ...]
    """What was scored, [first, stop) along z, y and x of the truth."""
    voxels: int
    """Voxels that count."""
    ignored_voxels: int
    """Voxels that do not, because of their label in the truth."""
    scores: dict[str, float]
    """Score by name; with several classes, the means over the classes."""
    classes: dict[int, dict[str, float]]
    """With several classes, the scores of each one but 0."""


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    kind: Kind | None = None,
    threshold: float | None = None,
    region: Region | str | None = None,
    ignore_labels: Sequence[int] | None = None,
) -> Report:
    """Score `prediction` against `truth`; neither is ever in memory as a whole.

    A semantic score has Dice, IoU, precision and recall of the foreground (truth > 0), or of every class where
    both volumes hold several. Floats are probabilities, and so is uint8 beyond 1 (255 stands for 1), unless the
    prediction says itself what it holds (`Volume.content`), as `predict` writes it. Scores of instances are the
    adapted Rand error and the variation of information.

    Args:
        prediction: `file.h5:dataset`, `file.tif`, a folder of sections or `volume.zarr:array`, as large as the
            truth or as the region.
        truth: labels.
        kind: what to score; by default `instances` where both hold more than two whole numbers, else `semantic`.
        threshold: the prediction holds probabilities (or a mask), and the foreground is above this; by default
            0.5 where it turns out to hold probabilities.
        region: score this part of the truth alone (`z=13:16,y=0:512`).
        ignore_labels: voxels with these labels in the truth do not count; by default 0 for instances, and none
            for a semantic score.

    Raises:
        VolumeError: a volume cannot be read, they do not fit each other, or it is unclear what the values mean.
        SpecError: options contradict each other.
    """
    if kind is not None and kind not in get_args(Kind):
        raise SpecError(f"kind {kind!r} is not known, give {' or '.join(get_args(Kind))}.")
    if threshold is not None and not 0 < threshold < 1:
        raise SpecError(f"the threshold {threshold} is not inside 0..1, uint8 is compared with 255 times it.")
    if threshold is not None and kind == "instances":
        raise SpecError("instances have no threshold, leave it out or score the foreground with kind 'semantic'.")
    with open_volume(prediction) as predicted, open_volume(truth) as true:
        box, offset = _aligned(predicted, true, region)
        cut = (DEFAULT_THRESHOLD if threshold is None else threshold) if predicted.dtype.kind == "f" else None
        table = merge_pairs(
            count_pairs(labels, true_labels)
            for labels, true_labels in _blocks(predicted, true, box=box, offset=offset, cut=cut)
        )
        counted = _without(table, ignore_labels or (), truth=true.location)
        reading = _interpret(predicted, counted, kind=kind, threshold=threshold, cut=cut)
        if reading.kind == "instances" and ignore_labels is None:
            counted = _without(counted, (0,), truth=true.location)
        scores, classes = _scores(counted, reading, truth=true.location)
        return Report(
            prediction=predicted.location,
            truth=true.location,
            kind=reading.kind,
            read_as=reading.text,
            region=tuple((part.start, part.stop) for part in box),
            voxels=counted.voxels,
            ignored_voxels=table.voxels - counted.voxels,
            scores=scores,
            classes=classes,
        )


def _aligned(predicted: Volume, true: Volume, region: Region | str | None) -> tuple[Box, tuple[int, int, int]]:
    """Return what is scored of the truth, and the position of the prediction's first voxel in it."""
    for volume in (predicted, true):
        if volume.channels not in (None, 1):
            raise VolumeError(
                f"{volume.location}: has {volume.channels} channels, and one is scored: save that channel alone, or "
                "predict labels (--output label)."
            )
    box = region_box(region, shape=true.shape)
    if predicted.shape == true.shape:
        return box, (0, 0, 0)
    if predicted.shape == box_shape(box):
        z, y, x = (part.start for part in box)
        return box, (z, y, x)
    wanted = f"{true.shape}" if region is None else f"{true.shape} or that of the region, {box_shape(box)}"
    raise VolumeError(
        f"{predicted.location} has the shape {predicted.shape} and {true.location} {true.shape}, the prediction's must "
        f"be {wanted}: give the volumes that belong together."
    )


def _blocks(
    predicted: Volume, true: Volume, *, box: Box, offset: tuple[int, int, int], cut: float | None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Read prediction and truth as whole numbers, block by block; floats become 1 above `cut`."""
    corners = (range(part.start, part.stop, edge) for part, edge in zip(box, BLOCK, strict=True))
    for corner in itertools.product(*corners):
        z, y, x = (
            slice(first, min(first + edge, part.stop)) for first, edge, part in zip(corner, BLOCK, box, strict=True)
        )
        dz, dy, dx = (
            slice(part.start - shift, part.stop - shift) for part, shift in zip((z, y, x), offset, strict=True)
        )
        values = predicted.read((dz, dy, dx))
        if cut is not None:
            values = _thresholded(values, cut, location=predicted.location)
        yield _plain(values), _whole(_plain(true.read((z, y, x))), location=true.location)


def _plain(block: NDArray[Any]) -> NDArray[Any]:
    """Without the axis of a single channel, and with bool as numbers."""
    block = block[0] if block.ndim == 4 else block
    return block.view(np.uint8) if block.dtype.kind == "b" else block


def _thresholded(values: NDArray[Any], cut: float, *, location: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise VolumeError(
            f"{location}: holds floats from {low:g} to {high:g}, probabilities lie in 0..1: apply the activation "
            "first, or save labels as whole numbers."
        )
    mask: NDArray[np.uint8] = (values > cut).astype(np.uint8)
    return mask


def _whole(labels: NDArray[Any], *, location: str) -> NDArray[Any]:
    if labels.dtype.kind != "f":
        return labels
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise VolumeError(f"{location}: the truth holds fractions, it must hold labels: save them as whole numbers.")
    return whole


def _without(table: Contingency, ignored: Sequence[int], *, truth: str) -> Contingency:
    counted = table.select(~np.isin(table.truth, ignored))
    if counted.voxels == 0:
        labels = ", ".join(str(label) for label in ignored)
        raise VolumeError(f"{truth}: every voxel has the label {labels}, which is ignored, so nothing can be scored.")
    return counted


@dataclass(frozen=True)
class _Reading:
    """What the prediction's values mean."""

    kind: Kind
    text: str
    above: float | None
    """Foreground is what lies above; None for class labels and instances."""


def _interpret(
    predicted: Volume, table: Contingency, *, kind: Kind | None, threshold: float | None, cut: float | None
) -> _Reading:
    """Decide what is scored from what the file says, the data type and the numbers of labels, or refuse to guess."""
    if cut is not None:
        if kind == "instances":
            raise VolumeError(
                f"{predicted.location}: holds {predicted.dtype}, and instances are whole numbers: segment it first, or "
                "score the foreground with kind 'semantic'."
            )
        source = ", as the file says" if predicted.content == "probability" else ""
        return _Reading("semantic", f"probabilities{source}, foreground above {cut:g}", 0)
    is_bytes, highest = predicted.dtype == np.uint8, int(table.prediction.max())
    if threshold is not None and not is_bytes and highest > 1:
        raise VolumeError(
            f"{predicted.location}: holds {predicted.dtype} up to {highest}, and a threshold is for probabilities "
            "(floats, or uint8 with 255 for 1) or a mask: leave it out."
        )
    if predicted.content == "probability":
        if kind == "instances":
            raise VolumeError(
                f"{predicted.location}: holds probabilities, as the file says, and instances are labels: segment it "
                "first, or score the foreground with kind 'semantic'."
            )
        return _bytes_above(DEFAULT_THRESHOLD if threshold is None else threshold, source=", as the file says")
    is_label = predicted.content == "label" and threshold is None
    several = min(len(np.unique(table.prediction)), len(np.unique(table.truth))) > 2
    if kind is None and threshold is None and several and is_bytes:
        raise VolumeError(
            f"{predicted.location}: holds uint8 up to {highest} against a truth with more than two labels, which can "
            f"be {'' if is_label else 'probabilities, '}classes or objects: give "
            f"{'' if is_label else '--threshold 0.5, '}--kind semantic or --kind instances."
        )
    if kind == "instances" or (kind is None and threshold is None and several):
        return _Reading("instances", "objects, one for each label", None)
    if several and threshold is None:
        return _Reading("semantic", "classes, one for each label", None)
    if is_bytes and highest > 1 and not is_label:
        return _bytes_above(DEFAULT_THRESHOLD if threshold is None else threshold, source="")
    return _Reading("semantic", f"{'labels, as the file says' if is_label else 'a mask'}, foreground above 0", 0)


def _bytes_above(cut: float, *, source: str) -> _Reading:
    """Read uint8 as probabilities; `source` says where that is known from."""
    return _Reading("semantic", f"probabilities in uint8{source}, foreground above {255 * cut:g} of 255", 255 * cut)


def _scores(
    table: Contingency, reading: _Reading, *, truth: str
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    if reading.kind == "instances":
        return instance_scores(table), {}
    if reading.above is not None:
        return foreground_scores(table, above=reading.above), {}
    highest = max(len(np.unique(table.prediction)), len(np.unique(table.truth)))
    if highest > MAX_CLASSES:
        raise VolumeError(
            f"{truth}: truth or prediction has {highest} labels, at most {MAX_CLASSES} can be classes: score objects "
            "with kind 'instances'."
        )
    classes = class_scores(table)
    names = next(iter(classes.values())).keys() if classes else ()
    return {name: float(np.mean([scores[name] for scores in classes.values()])) for name in names}, classes
