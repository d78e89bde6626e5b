"""Which part of a prediction is decoded, where that lies in a volume, and its truth and mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.volumes import Box, Placement, Volume, check_mask, open_volume
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.placement import placement_of
from connectomics_zoo.volumes.truth import Truth, read_truth
from connectomics_zoo.volumes.uri import Place

_log = logging.getLogger(__name__)


def mask_of(run: RunSpec, truth: str | Path) -> str | None:
    """Return the mask that the run has for the label volume `truth`, None where it has none.

    Raises:
        SpecError: it has several.
    """
    root = run.data.folder
    wanted = _file_of(truth)
    pairs = (*run.data.validation, *run.data.train) if wanted is not None else ()
    masks = {
        pair.mask for pair in pairs if any(_file_of(place, root=root) == wanted for place in pair.label_places.values())
    }
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
) -> tuple[Box, Placement | None, Callable[[], Truth] | None]:
    """Return the part of the prediction that is decoded, where that lies, and what reads its truth, if any."""
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
    return box, placement, lambda: _read_truth(true, known, true_box, ignored=ignored)


def _read_truth(true: Volume, known: Volume | None, box: Box, *, ignored: Sequence[int]) -> Truth:
    """Return the truth, and say what is hardly meant in it."""
    look = LabelLook(ignored)
    look.add(true.read_plain(box), None if known is None else known.read_plain(box) != 0)
    look.refuse_unclear(true.dtype, location=true.location)
    if look.grey is None:  # which the tuning refuses
        for problem in look.warnings(true.dtype):
            _log.warning("%s %s.", true.location, problem)
    return read_truth(true, known, box, unlabelled=None, ignored=ignored)
