"""What references are compared on: the data that they share, the volumes that are scored, and what has seen those."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from connectomics_zoo.compare.report import Seen
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, Region, RunSpec, VolumePair
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_experiment
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.volumes import check_mask, check_pair, open_volume
from connectomics_zoo.volumes.box import parse_region, region_box
from connectomics_zoo.volumes.uri import is_uri

VolumeRequest = Mapping[str, Any]
"""A pair as a user gives it: `image`, `label`, and perhaps `mask` and `region`."""

_ENDLESS = 2**62
"""More voxels than an axis has."""

SHARES = 5
"""A volume that is split by itself gives a fifth of its sections to validation, and another to the test."""


class Shared(NamedTuple):
    """What all references get."""

    overrides: dict[str, Any]
    """Task and data, as overrides of every reference."""
    recipe: dict[str, Any]
    """What an experiment says beside them, as overrides of the references that are models."""
    test: tuple[dict[str, Any], ...]
    """The pairs that are scored, as documents; none where validation data are."""


def share(
    data: str | Path | VolumeRequest | None,
    test: VolumeRequest | Sequence[VolumeRequest] | None,
    overrides: Mapping[str, Any],
) -> Shared:
    """Return what all references get.

    Args:
        data: an experiment, whose task and data all take and whose recipe models take; or one pair, which is split
            along z.
        test: the pairs that are scored.
        overrides: of every reference; they go before `data`.

    Raises:
        ZooError: one of them is not possible.
    """
    tests = tuple(dict(pair) for pair in ([test] if isinstance(test, Mapping) else test or ()))
    if data is None:
        return Shared(dict(overrides), {}, tests)
    if isinstance(data, Mapping):
        given, held_out = _split(data, root=overrides.get("data", {}).get("root"), with_test=not tests)
        return Shared(merge({"data": given}, overrides), {}, tests or held_out)
    experiment = get_experiment(data)
    # Every field, so that nothing of a reference's own data stays.
    document = {"task": experiment.task, "data": experiment.data.model_dump(mode="json")}
    recipe = {
        "training": experiment.training.model_dump(mode="json", exclude_none=True),
        "prediction": experiment.prediction.model_dump(mode="json", exclude_unset=True),
        **({} if experiment.threshold is None else {"threshold": experiment.threshold}),
    }
    return Shared(merge(document, overrides), recipe, tests)


def _split(
    pair: VolumeRequest, *, root: str | None, with_test: bool
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Return the training and validation data, and the pairs to test on, that are parts of one pair along z."""
    whole = _pair({**pair, "image": pair.get("image", REQUIRED), "label": pair.get("label", REQUIRED)}, what="data")
    if REQUIRED in whole.places:
        raise SpecError("data has an image and a label, write image=FILE:DATASET,label=FILE:DATASET.")
    with open_volume(whole.image, root=DataSpec(root=root).folder) as image:
        box = region_box(whole.region, shape=image.shape, location=image.location)
        sections, location = box.shape[0], image.location
    part = max(1, sections // SHARES)
    ends = [box.stop[0] - part, box.stop[0]] if with_test else [box.stop[0]]
    starts = [ends[0] - part, *ends[:-1]]
    if starts[0] <= box.start[0]:
        raise VolumeError(
            f"{location}: has {sections} section(s), too few to be split: give data.train, data.validation and a test."
        )
    bounds = [(box.start[0], starts[0]), *zip(starts, ends, strict=True)]
    parts = [
        whole.model_copy(update={"region": whole.region.model_copy(update={"z": limits})}).model_dump(
            mode="json", exclude_none=True
        )
        for limits in bounds
    ]
    return {"train": [parts[0]], "validation": [parts[1]]}, tuple(parts[2:])


def _pair(document: VolumeRequest, *, what: str) -> VolumePair:
    region = document.get("region")
    if isinstance(region, str):
        document = {**document, "region": parse_region(region).model_dump(exclude_none=True)}
    return validate(VolumePair, document, source=what)


def scored_pairs(test: Sequence[VolumeRequest], data: DataSpec) -> tuple[VolumePair, ...]:
    """Return the pairs that are scored: those of the test, or without one, of validation.

    Where all the data are of one volume, a test may name a region alone.

    Raises:
        SpecError: there are none, or a volume is not given.
    """
    if not test:
        if not data.validation:
            raise SpecError(
                "there is nothing to score on, give a test (--test image=…,label=…,z=0:9) or data.validation."
            )
        _refuse_missing(data.validation, data)
        return data.validation
    used = (*data.train, *data.validation)
    volumes = {(pair.places, pair.annotated) for pair in used}
    own = {}
    if len(volumes) == 1:
        own = used[0].model_dump(include={"image", "label", "mask", "annotated"}, exclude_none=True)
    documents = [{**({} if "image" in pair else own), **pair} for pair in test]
    for document in documents:
        missing = [name for name in ("image", "label") if name not in document]
        if missing:
            raise SpecError(
                f"the test has no {missing[0]}, give it (--test image=FILE:DATASET,label=FILE:DATASET); a region alone "
                "is enough where all data are of one volume."
            )
    pairs = tuple(_pair(document, what="the test") for document in documents)
    _refuse_missing(pairs, data)
    return pairs


def _refuse_missing(pairs: Sequence[VolumePair], data: DataSpec) -> None:
    """Refuse places that an experiment leaves to the user."""
    if data.root == REQUIRED:
        raise SpecError("the folder of the volumes is not given, add data.root=FOLDER.")
    if any(REQUIRED in pair.places for pair in pairs):
        raise SpecError("a volume to score on is not given, add data.validation.image and label, or a test.")


def check_scored(pairs: Sequence[VolumePair], data: DataSpec, *, task: TaskSpec) -> None:
    """Refuse volumes to score on that do not fit each other, before anything is trained.

    Raises:
        VolumeError: one cannot be read, or they do not fit.
    """
    continuous = any(channel.target.kind == "value" for channel in task.channels)
    for pair in pairs:
        with open_volume(pair.image, root=data.folder) as image:
            for place in pair.label_places.values():
                with open_volume(place, root=data.folder) as label:
                    check_pair(image, label, continuous=continuous)
            for part in single_regions(pair):
                region_box(part.region, shape=image.shape, location=image.location)
            if pair.mask is not None:
                with open_volume(pair.mask, root=data.folder) as mask:
                    check_mask(image, mask)


def seen_before(run: RunSpec, pairs: Sequence[VolumePair], data: DataSpec) -> Seen:
    """Return what `pairs` of `data` were for the weights of `run`."""
    if _any_common(run.data.train, run.data, pairs, data):
        return "trained"
    if run.training.keep == "best" and _any_common(run.data.validation, run.data, pairs, data):
        return "chose"
    return "nothing"


def _any_common(first: Sequence[VolumePair], of: DataSpec, second: Sequence[VolumePair], data: DataSpec) -> bool:
    return any(
        _is_same(one, of, other, data) and _share_voxels(one, other) for one, other in itertools.product(first, second)
    )


def _is_same(one: VolumePair, of: DataSpec, other: VolumePair, data: DataSpec) -> bool:
    """Whether two pairs are of one image; of a run that was given away, only the end of its place is known."""
    if of.root == REQUIRED:
        return _place(other, data).endswith(f"/{one.image}")
    return _place(one, of) == _place(other, data)


def _place(pair: VolumePair, data: DataSpec) -> str:
    return pair.image if is_uri(pair.image) else str(((data.folder or Path()) / pair.image).absolute())


def _share_voxels(one: VolumePair, other: VolumePair) -> bool:
    endless = (_ENDLESS,) * 3
    boxes = [
        [region_box(part.region, shape=endless, location=part.image) for part in single_regions(pair)]
        for pair in (one, other)
    ]
    return any(first.intersection(second).voxels for first, second in itertools.product(*boxes))


def single_regions(pair: VolumePair) -> list[VolumePair]:
    """Return a pair for each of its annotated regions, or itself where all of its region is annotated."""
    if not pair.regions:
        return [pair]
    limits = pair.region.model_dump(exclude_none=True)
    return [
        pair.model_copy(update={"regions": None, "region": Region(**limits | region.model_dump(exclude_none=True))})
        for region in pair.regions
    ]
