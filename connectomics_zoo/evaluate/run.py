"""`evaluate`: a prediction on disk against the truth on disk, block by block."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate.blocks import BLOCK, read_blocks, relabelled
from connectomics_zoo.evaluate.classes import score_classes
from connectomics_zoo.evaluate.interpret import OBJECTS, Reading, ScoreKind, interpret
from connectomics_zoo.evaluate.report import EvaluateReport
from connectomics_zoo.scores.classes import check_truths, classes_of
from connectomics_zoo.scores.contingency import Contingency, count_pairs, leave_out, merge_pairs
from connectomics_zoo.scores.run_length import labels_at, run_length_scores, skeletons_in
from connectomics_zoo.scores.scores import class_scores, foreground_scores, object_scores, partition_scores
from connectomics_zoo.scores.skeletons import Skeletons, read_skeletons
from connectomics_zoo.tasks.targets.labels import IGNORED
from connectomics_zoo.volumes import Volume, VoxelSize, check_mask, open_volume
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.box import AnyRegion, Box
from connectomics_zoo.volumes.label_look import LabelLook, clean_labels, without_largest
from connectomics_zoo.volumes.prediction import refuse_spread
from connectomics_zoo.volumes.truth import swapped_background

_log = logging.getLogger(__name__)


MAX_CLASSES = 256
"""More labels than this are objects, not classes."""


def evaluate(
    prediction: str | Path,
    truth: str | Path | Mapping[str, str | Path] | None = None,
    *,
    kind: ScoreKind | None = None,
    threshold: float | None = None,
    region: AnyRegion = None,
    ignore_labels: Sequence[int] | None = None,
    unlabelled: int | None = None,
    background: int | None = None,
    mask: str | Path | None = None,
    annotated: Sequence[str] | None = None,
    relabel: bool = False,
    skeletons: str | Path | None = None,
    merge_nodes: int = 0,
    voxel_size_nm: VoxelSize | None = None,
) -> EvaluateReport:
    """Score `prediction` against `truth`, skeletons or both, block by block: no volume is in memory as a whole.

    A semantic score has Dice, IoU, precision and recall of the foreground (truth > 0), or of every class where both
    volumes hold several, or the prediction says which classes it has. Floats are probabilities, and so is uint8 beyond
    1 (255 stands for 1) unless its edges are hard, as those of labels, or the prediction says itself what it holds
    (`Volume.content`), as `predict` and `decode` write it. The largest id of 32 and 64 bits is background, as 0 is,
    unless it is `unlabelled`. Scores of instances are those of `partition_scores` (adapted Rand error, variation of
    information, CREMI score), of `object_scores` (AP, F1 and panoptic quality) and, with skeletons, of
    `run_length_scores` (expected run length).

    Args:
        prediction: `file.h5:dataset`, `file.tif`, a folder of sections or `volume.zarr:array`, as large as the
            truth or as the region; or one that says where it lies, as `predict` and `decode` write it.
        truth: labels; of a prediction whose classes are made of several label volumes, each of them by its name.
        kind: what to score; by default `instances` with skeletons, where the prediction says that it holds them, or
            where both hold more than two whole numbers, else `semantic`.
        threshold: the prediction holds probabilities (or a mask), and the foreground is above this; by default
            where it turns out to hold probabilities, that of the task that it carries, else 0.5.
        region: score this part of the truth alone (`z=13:16,y=0:512`), or without one, of the volume that the
            prediction is a part of; by default all that the prediction has.
        ignore_labels: voxels with these labels in the truth count for no score, as if they were not there. By
            default none, but Rand error, VOI and CREMI score leave out 0; what is predicted there is a false object.
        unlabelled: the label in the truth of voxels that are not annotated; they count for no score but run lengths,
            beside those that `ignore_labels` leaves out.
        background: the label in the truth that is background beside 0, as 1 in scribbles whose 0 is `unlabelled`.
        mask: a volume as large as the truth that is 0 where the truth is not annotated; those voxels count for no score
            but run lengths.
        annotated: of a prediction that says which classes it has, those that the truth annotates; by default all.
        relabel: the objects of the truth are the connected components of its labels, as of a mask; the scored part of
            the truth is read twice then.
        skeletons: an SWC file or a folder of them, each a neuron; positions in nm from the first voxel of the
            truth, or without one, of the volume that the prediction is a part of.
        merge_nodes: a segment with more nodes than this of two skeletons or more merges them.
        voxel_size_nm: (z, y, x), where the volumes do not say it.

    Raises:
        VolumeError: a volume cannot be read, they do not fit each other, or it is unclear what the values mean.
        SpecError: options contradict each other.
    """
    _check_options(
        kind=kind,
        threshold=threshold,
        truth=truth,
        mask=mask,
        relabel=relabel,
        skeletons=skeletons,
        merge_nodes=merge_nodes,
    )
    if background is not None and (truth is None or background == unlabelled):
        raise SpecError(
            f"background {background} is a label of the truth, and its voxels are not unlabelled: give the truth, and "
            "two labels."
        )
    lines = None if skeletons is None else read_skeletons(skeletons)
    kind = "instances" if relabel or lines is not None else kind
    with (
        open_volume(prediction, voxel_size_nm=voxel_size_nm) as predicted,
        _opened_by_name(truth, voxel_size_nm=voxel_size_nm) as truths,
        _opened(mask, voxel_size_nm=voxel_size_nm) as known,
    ):
        refuse_spread(predicted.stored(), location=predicted.location)
        true = next(iter(truths.values()), None)
        task = None if true is None or kind == "instances" else classes_of(predicted)
        if task is not None:
            check_truths(truths, task=task, annotated=annotated)
        elif annotated is not None or (truths and None not in truths):
            raise SpecError(
                f"{predicted.location}: does not say which classes it has, and truths by name and annotated classes "
                "need that: give one truth, and leave annotated out."
            )
        box, offset = _aligned(predicted, predicted if true is None else true, region, has_classes=task is not None)
        if true is None:
            report = _unscored(predicted, box=box)
        elif task is not None:
            for other in (*truths.values(), known):
                if other is not None:
                    check_mask(true, other, kind="truth")
            return score_classes(
                predicted,
                truths,
                known,
                task=task,
                box=box,
                offset=offset,
                threshold=threshold,
                unlabelled=unlabelled,
                background=background,
                ignored=tuple(ignore_labels or ()),
                annotated=annotated,
            )
        else:
            report = _compared(
                predicted,
                true,
                known,
                box=box,
                offset=offset,
                kind=kind,
                threshold=threshold,
                ignore_labels=ignore_labels,
                unlabelled=unlabelled,
                background=background,
                relabel=relabel,
            )
        if lines is None:
            return report
        size_nm = (None if true is None else true.voxel_size_nm) or predicted.voxel_size_nm
        scores = _run_lengths(predicted, lines, box=box, offset=offset, voxel_size_nm=size_nm, merge_nodes=merge_nodes)
        return replace(report, skeletons=str(skeletons), scores=report.scores | scores)


def _opened(
    place: str | Path | None, *, voxel_size_nm: VoxelSize | None = None
) -> AbstractContextManager[Volume | None]:
    return nullcontext() if place is None else open_volume(place, voxel_size_nm=voxel_size_nm)


@contextmanager
def _opened_by_name(
    truth: str | Path | Mapping[str, str | Path] | None, *, voxel_size_nm: VoxelSize | None
) -> Iterator[dict[str | None, Volume]]:
    """Open the label volumes of a truth: none, one without a name, or several by name."""
    places: dict[str | None, str | Path] = {}
    if isinstance(truth, Mapping):
        places.update(truth)
    elif truth is not None:
        places[None] = truth
    with ExitStack() as opened:
        yield {
            name: opened.enter_context(open_volume(place, voxel_size_nm=voxel_size_nm))
            for name, place in places.items()
        }


def _check_options(
    *,
    kind: ScoreKind | None,
    threshold: float | None,
    truth: str | Path | Mapping[str, str | Path] | None,
    mask: str | Path | None,
    relabel: bool,
    skeletons: str | Path | None,
    merge_nodes: int,
) -> None:
    if relabel and (truth is None or kind == "semantic" or threshold is not None):
        raise SpecError(
            "relabel makes objects of the truth, give the truth, and leave out kind 'semantic' and threshold."
        )
    if kind is not None and kind not in get_args(ScoreKind):
        raise SpecError(f"kind {kind!r} is not known, give {' or '.join(get_args(ScoreKind))}.")
    if threshold is not None and not 0 < threshold < 1:
        raise SpecError(f"the threshold {threshold} is not inside 0..1, uint8 is compared with 255 times it.")
    if threshold is not None and kind == "instances":
        raise SpecError("instances have no threshold, leave it out or score the foreground with kind 'semantic'.")
    if truth is None and skeletons is None:
        raise SpecError("there is nothing to score against, give the truth, skeletons or both.")
    if mask is not None and truth is None:
        raise SpecError("the mask says where the truth is annotated, and there is no truth: give it, or no mask.")
    if skeletons is not None and (kind == "semantic" or threshold is not None):
        raise SpecError("skeletons score instances and not a foreground, leave out skeletons, or kind and threshold.")
    if merge_nodes < 0 or (merge_nodes and skeletons is None):
        raise SpecError(f"merge_nodes {merge_nodes} is not possible, give 0 or more of them, and skeletons.")


def _compared(
    predicted: Volume,
    true: Volume,
    mask: Volume | None,
    *,
    box: Box,
    offset: tuple[int, int, int],
    kind: ScoreKind | None,
    threshold: float | None,
    ignore_labels: Sequence[int] | None,
    unlabelled: int | None,
    background: int | None,
    relabel: bool,
) -> EvaluateReport:
    """Score the prediction against the truth, from the one table of their pairs of labels."""
    read, unlabelled = swapped_background(true.read, background=background, unlabelled=unlabelled)
    ignored = (*(ignore_labels or ()), *(() if unlabelled is None else (unlabelled,)))
    if mask is not None:
        check_mask(true, mask, kind="truth")
    look, look_at_prediction = LabelLook(ignored), LabelLook()
    if relabel:
        read, ignored = relabelled(true, mask, box, read=read, ignored=ignored, look=look), (IGNORED,)
    stored = predicted.stored()
    cut = (stored.cut if threshold is None else threshold) if predicted.dtype.kind == "f" else None

    def tables() -> Iterator[Contingency]:
        for labels, true_labels, known in read_blocks(
            predicted, true, mask, read=read, box=box, offset=offset, cut=cut
        ):
            if not relabel:
                look.add(true_labels, known)
            if predicted.dtype == np.uint8 and predicted.content is None:
                look_at_prediction.add(labels)
            true_labels = clean_labels(true_labels, unlabelled=ignored, location=true.location)
            labels = without_largest(labels, unlabelled=())
            yield count_pairs(labels, true_labels) if known is None else count_pairs(labels[known], true_labels[known])

    table = merge_pairs(tables())
    if mask is not None and not table.voxels:
        raise VolumeError(f"{mask.location}: is 0 in all of {box}, so nothing can be scored: give another.")
    counted = leave_out(table, ignored, truth=true.location)
    problems = look.check(true.dtype, location=true.location)
    for problem in (*problems, *([] if look.single is None else [look.single])):
        _log.warning("%s: %s; it is scored all the same.", true.location, problem)
    reading = interpret(
        predicted, counted, kind=kind, threshold=threshold, cut=cut, stored=stored, look=look_at_prediction
    )
    if reading.kind == "semantic" and reading.above is not None and not problems and look.objects_as_mask:
        _log.warning("%s: %s.", true.location, look.objects_as_mask)
    compared = counted
    scores, classes = _scores(counted, reading, truth=true.location)
    if reading.kind == "instances":
        _warn_of_masks(counted, prediction=predicted, truth=None if relabel else true)
        # Background is no object, but what is predicted in it is a false one: the table keeps it for `object_scores`.
        compared = counted if ignore_labels is not None else leave_out(counted, (0,), truth=true.location)
        scores = partition_scores(compared) | scores
    return EvaluateReport(
        prediction=predicted.location,
        truth=true.location,
        skeletons=None,
        kind=reading.kind,
        read_as=reading.text,
        threshold=reading.threshold,
        mask=None if mask is None else mask.location,
        region=box.ranges,
        voxels=compared.voxels,
        ignored_voxels=box.voxels - compared.voxels,
        scores=scores,
        classes=classes,
    )


def _unscored(predicted: Volume, *, box: Box) -> EvaluateReport:
    """Return the report of a segmentation without a truth, which has no scores yet."""
    if predicted.dtype.kind == "f" or predicted.content == "probability":
        raise VolumeError(
            f"{predicted.location}: holds probabilities ({predicted.dtype}), and skeletons score labels: segment it "
            "first."
        )
    return EvaluateReport(
        prediction=predicted.location,
        truth=None,
        skeletons=None,
        kind="instances",
        read_as=OBJECTS,
        threshold=None,
        mask=None,
        region=box.ranges,
        voxels=box.voxels,
        ignored_voxels=0,
        scores={},
        classes={},
    )


def _run_lengths(
    predicted: Volume,
    skeletons: Skeletons,
    *,
    box: Box,
    offset: tuple[int, int, int],
    voxel_size_nm: VoxelSize | None,
    merge_nodes: int,
) -> dict[str, float]:
    if voxel_size_nm is None:
        raise VolumeError(
            f"{predicted.location}: neither it nor the truth says how large its voxels are, which takes skeletons to "
            "them: give the voxel size (z, y, x) in nm."
        )
    inside, voxels = skeletons_in(skeletons, box=box, voxel_size_nm=voxel_size_nm)
    labels = labels_at(predicted, voxels, offset=offset, block=BLOCK)
    return run_length_scores(inside, labels, merge_nodes=merge_nodes)


def _warn_of_masks(table: Contingency, *, prediction: Volume, truth: Volume | None) -> None:
    """Say where a volume that is scored as objects has a single one, which most often is a mask of many."""
    for volume, labels in ((prediction, table.prediction), (truth, table.truth)):
        objects = np.unique(labels[labels != 0])
        if volume is not None and objects.size == 1 and volume.content != "instances":
            _log.warning(
                "%s: has a single label, %s, and so a single object; if it is a mask, %s.",
                volume.location,
                objects[0],
                "score its connected components (--relabel)" if volume is truth else "label its objects first",
            )


def _aligned(
    predicted: Volume, true: Volume, region: AnyRegion, *, has_classes: bool
) -> tuple[Box, tuple[int, int, int]]:
    """Return what is scored of the truth, and the position of the prediction's first voxel in it."""
    for volume in (true,) if has_classes else (predicted, true):
        if volume.channels not in (None, 1):
            raise VolumeError(
                f"{volume.location}: has {volume.channels} channels, and one is scored: save that channel alone, or "
                f"{_way_to_labels(volume)}."
            )
    shape = true.shape
    if predicted is true and predicted.placement is not None:
        # The positions of skeletons alone are in the volume that it is a part of.
        shape = predicted.placement.whole_shape
    return aligned_box(predicted, shape=shape, region=region, truth=true.location)


def _way_to_labels(volume: Volume) -> str:
    """What makes labels of a prediction of several channels."""
    task = volume.stored().task
    if task is None:
        return "make labels of them (zoo predict --output label or zoo decode)"
    if task.decode.is_instances:
        return "make objects of them (zoo decode)"
    return "predict labels (--output label)"


def _scores(
    table: Contingency, reading: Reading, *, truth: str
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    if reading.kind == "instances":
        return object_scores(table), {}
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
