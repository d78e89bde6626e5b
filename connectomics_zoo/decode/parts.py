"""Which part of a prediction is decoded, where that lies in a volume, and its truth and mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.schema.experiment import DataSpec, RunSpec, VolumePair
from connectomics_zoo.volumes import Box, Placement, Volume, check_mask, open_volume
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.box import annotated_boxes, region_box
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.placement import placement_of
from connectomics_zoo.volumes.truth import Truth, read_truth, with_background
from connectomics_zoo.volumes.uri import Place

_log = logging.getLogger(__name__)


def mask_of(run: RunSpec, truth: str | Path) -> str | None:
    """Return the mask that the run has for the label volume `truth`, None where it has none.

    Raises:
        SpecError: it has several.
    """
    root = run.data.folder
    masks = {pair.mask for pair in _pairs_of(run, truth)}
    if len(masks) > 1:
        named = ", ".join(sorted(mask or "none" for mask in masks))
        raise SpecError(f"the run {run.name} has several masks for {truth} ({named}): give the one that is meant.")
    mask = next(iter(masks), None)
    if mask is None:
        return None
    with open_volume(mask, root=root) as volume:
        return volume.location


def _file_of(place: str | Path, *, root: Path | None = None) -> tuple[Place, str | None] | None:
    """Return file and dataset of a volume, None where it cannot be opened."""
    try:
        with open_volume(place, root=root) as volume:
            path, dataset = split_place(volume.location)
    except VolumeError:
        return None
    return path.resolve() if isinstance(path, Path) else path, dataset


def find_parts(
    predicted: Volume,
    tune_on: str | Path | None,
    mask: str | Path | None,
    region: str | None,
    *,
    ignored: Sequence[int],
    run: RunSpec | None,
) -> tuple[Box, Placement | None, Callable[[], Truth] | None]:
    """Return the part of the prediction that is decoded, where that lies, and what reads its truth, if any.

    Of a truth that the run is trained or validated on, what it annotates (`regions`) counts.
    """
    lies = predicted.placement
    if tune_on is None:
        shape = predicted.shape if lies is None else lies.whole_shape
        whole = predicted.location if lies is None else f"the volume that {predicted.location} is of"
        box, first = aligned_box(predicted, shape=shape, region=region, truth=whole)
        return box.relative_to(first), placement_of(box, whole_shape=shape), None
    with open_volume(tune_on) as true, nullcontext() if mask is None else open_volume(mask) as known:
        true_box, first = aligned_box(predicted, shape=true.shape, region=region, truth=true.location)
        if true.channels not in (None, 1) or true.dtype.kind == "f":
            raise VolumeError(
                f"{true.location}: holds {true.dtype}{'' if true.channels is None else ' in channels'}, a truth is one "
                "volume of whole numbers, a label for each object: give that."
            )
        if known is not None:
            check_mask(true, known, kind="truth")
    box = true_box.relative_to(first)
    if lies is None:
        placement = placement_of(true_box, whole_shape=true.shape)
    else:
        placement = Placement(box.moved(lies.box.start), lies.whole_shape)
    regions = None if run is None else _regions_of(run, tune_on, true)
    data = None if run is None else run.data
    return box, placement, lambda: _read_truth(true, known, true_box, ignored=ignored, regions=regions, data=data)


def ignored_labels(labels: Sequence[int], run: RunSpec | None) -> list[int]:
    """Return the labels that count for no setting: those asked for, and the run's for what is not annotated.

    Where that leaves another one for background, the truth is read without it (`_read_truth`).
    """
    unlabelled = None if run is None or run.data.background is not None else run.data.unlabelled
    return [*labels, *(() if unlabelled is None else (unlabelled,))]


def _pairs_of(run: RunSpec, truth: str | Path) -> list[VolumePair]:
    """Return the volumes of a run whose labels are `truth`, those that it is validated on first."""
    root = run.data.folder
    wanted = _file_of(truth)
    pairs = (*run.data.validation, *run.data.train) if wanted is not None else ()
    return [pair for pair in pairs if any(_file_of(place, root=root) == wanted for place in pair.label_places.values())]


def _regions_of(run: RunSpec, truth: str | Path, true: Volume) -> list[Box] | None:
    """Return what of a truth the run annotates, what it holds out alone if there is any; None for all of it."""
    pairs = _pairs_of(run, truth)
    held_out = [pair for pair in pairs if pair in run.data.validation and pair.regions]
    chosen = held_out or pairs
    if not any(pair.regions for pair in chosen):
        return None
    found = [annotated_boxes(pair, shape=true.shape, location=true.location) for pair in chosen]
    parts = [region_box(pair.region, shape=true.shape, location=true.location) for pair in chosen]
    return [box for boxes, part in zip(found, parts, strict=True) for box in boxes or (part,)]


def _read_truth(
    true: Volume,
    known: Volume | None,
    box: Box,
    *,
    ignored: Sequence[int],
    regions: Sequence[Box] | None,
    data: DataSpec | None,
) -> Truth:
    """Return the truth, and say what is hardly meant in it."""
    background = None if data is None else data.background
    unlabelled = None if data is None or background is None else data.unlabelled
    truth = read_truth(true, known, box, unlabelled=unlabelled, background=background, ignored=ignored, regions=regions)
    look = LabelLook(ignored)
    look.add(with_background(true.read_plain(box), background), truth.annotated)
    for problem in look.check(true.dtype, location=true.location):
        _log.warning("%s %s.", true.location, problem)
    return truth
