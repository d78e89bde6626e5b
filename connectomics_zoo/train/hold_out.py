"""Holds annotated regions of the training volumes out, to validate on: the one that is asked for, or about a fifth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import DataSpec, Region, VolumePair
from connectomics_zoo.train.annotated_boxes import count_along, find_boxes
from connectomics_zoo.volumes.box import Box, annotated_boxes, as_region, region_box
from connectomics_zoo.volumes.pair_reader import PairReader

SHARE = 0.2
"""Fraction of the annotated voxels that is held out."""

TOLERATED = (0.1, 0.4)
"""What it may be in whole regions; else a slab of one is taken."""


@dataclass(frozen=True)
class _Part:
    """An annotated region of a training volume."""

    pair: int
    """Index of the volume."""
    region: Region
    """As a spec has it."""
    box: Box
    """In the volume's own voxels."""
    voxels: int
    """Annotated ones."""


def with_held_out(data: DataSpec) -> DataSpec:
    """Return `data` with the regions that `hold_out` asks for in `validation`, and no longer in `train`.

    Which ones follows from where the volumes are annotated alone, and is the same every time. A volume that is
    annotated in all of its region is divided by its `region`, so that training does not see the images that are held
    out; any other by `regions`, around which it may see them, and no label.

    Raises:
        SpecError: there is no such region, or nothing would be left to train on.
        VolumeError: a volume cannot be read.
    """
    if data.hold_out is None:
        return data
    readers = [PairReader(pair, data) for pair in data.train]
    try:
        parts = [part for number, reader in enumerate(readers) for part in _parts_of(number, reader)]
        parts, held = (
            _about_a_fifth(parts, readers) if data.hold_out == "auto" else (parts, {_checked(data.hold_out, parts)})
        )
    finally:
        for reader in readers:
            reader.close()
    train, validation = [], []
    for number, (pair, reader) in enumerate(zip(data.train, readers, strict=True)):
        own = [part for index, part in enumerate(parts) if part.pair == number and index in held]
        kept = [part for index, part in enumerate(parts) if part.pair == number and index not in held]
        if own:
            validation.append(_of_parts(pair, own, is_full=_is_full(reader)).model_copy(update={"weight": None}))
        out = [parts[index] for index in sorted(held) if _has_same_labels(pair, data.train[parts[index].pair])]
        rest = [piece for part in kept for piece in _without(part, out)]
        if rest == kept and not own:
            train.append(pair)
        elif rest:
            train.append(_of_parts(pair, rest, is_full=_is_full(reader)))
    if not train:
        raise SpecError("data.hold_out leaves no annotated region to train on: give more of them, or data.validation.")
    return data.model_copy(update={"train": tuple(train), "validation": tuple(validation), "hold_out": None})


def _has_same_labels(one: VolumePair, other: VolumePair) -> bool:
    """Whether two entries are of one volume, with a label volume that both have."""
    return one.image == other.image and not {*one.label_places.values()}.isdisjoint(other.label_places.values())


def _is_full(reader: PairReader) -> bool:
    """Whether all of a volume's region is annotated."""
    return reader.regions is None and reader.mask is None and reader.data.unlabelled is None


def _parts_of(number: int, reader: PairReader) -> list[_Part]:
    """Return the annotated regions of a volume: those that the spec states, or those that are found."""
    image, pair = reader.image, reader.pair
    whole = region_box(pair.region, shape=image.shape, location=image.location)
    if pair.regions is not None:
        boxes = annotated_boxes(pair, shape=image.shape, location=image.location) or ()
        return [
            _Part(number, region, box, int(count_along(reader, box, 0).sum()))
            for region, box in zip(pair.regions, boxes, strict=True)
        ]
    if _is_full(reader):
        return [_Part(number, pair.region, whole, whole.voxels)]
    return [_Part(number, as_region(one.box), one.box, one.voxels) for one in find_boxes(reader, whole)]


def _checked(number: int, parts: list[_Part]) -> int:
    """Return the number of the region that is held out."""
    if number >= len(parts):
        raise SpecError(
            f"data.hold_out={number} is the number of no annotated region, of which data.train has {len(parts)}, "
            "counted from 0: give one of them, or data.hold_out=auto."
        )
    if len(parts) == 1:
        raise SpecError(
            "data.hold_out=0 is the only annotated region and leaves none to train on, give data.hold_out=auto, which "
            "takes a slab of it."
        )
    return number


def _about_a_fifth(parts: list[_Part], readers: list[PairReader]) -> tuple[list[_Part], set[int]]:
    """Return the regions, of which one may be cut in two for it, and the numbers of those that are held out."""
    total = sum(part.voxels for part in parts)
    if not total:
        raise SpecError("data.train is annotated nowhere, check data.unlabelled, the masks and the regions.")
    held, voxels = set[int](), 0
    for index in np.random.default_rng(0).permutation(len(parts)).tolist():
        more = voxels + parts[index].voxels
        if abs(more - SHARE * total) < abs(voxels - SHARE * total):
            held, voxels = held | {index}, more
    if TOLERATED[0] * total <= voxels <= TOLERATED[1] * total:
        return parts, held
    largest = max(range(len(parts)), key=lambda index: parts[index].voxels)
    rest, slab = _cut(parts[largest], readers[parts[largest].pair], voxels=SHARE * total)
    return [*parts[:largest], rest, *parts[largest + 1 :], slab], {len(parts)}


def _cut(part: _Part, reader: PairReader, *, voxels: float) -> tuple[_Part, _Part]:
    """Return a region without a slab at the end of its longest axis, and that slab, with about `voxels` annotated."""
    size = reader.image.voxel_size_nm or (1.0, 1.0, 1.0)
    axis = max(range(3), key=lambda axis: part.box.shape[axis] * size[axis])
    first, stop = part.box.ranges[axis]
    behind = count_along(reader, part.box, axis)[::-1].cumsum()[::-1]
    cuts = [
        cut
        for cut in range(first + 1, stop)
        if 0 < behind[cut - first] < behind[0] and _is_between_network_voxels(part, reader, axis, cut)
    ]
    if not cuts:
        raise SpecError(
            f"the annotation of {reader.label_locations} cannot be divided along {'zyx'[axis]}, so that nothing can be "
            "held out: annotate more, or give data.validation."
        )
    cut = min(cuts, key=lambda cut: abs(behind[cut - first] - voxels))
    slab = int(behind[cut - first])
    return (
        _limited(part, axis, (first, cut), voxels=part.voxels - slab),
        _limited(part, axis, (cut, stop), voxels=slab),
    )


def _is_between_network_voxels(part: _Part, reader: PairReader, axis: int, cut: int) -> bool:
    """Whether there are network voxels on both sides of a cut, and none is lost where these are whole voxels long."""
    ratio = reader.grid.ratios[axis]
    first, stop = part.box.ranges[axis]
    sides = (part.box.replace(**{"zyx"[axis]: limits}) for limits in ((first, cut), (cut, stop)))
    return (not isinstance(ratio, int) or cut % ratio == 0) and all(reader.grid.inside(side).voxels for side in sides)


def _limited(part: _Part, axis: int, limits: tuple[int, int], *, voxels: int) -> _Part:
    name = "zyx"[axis]
    region, box = part.region.model_copy(update={name: limits}), part.box.replace(**{name: limits})
    return replace(part, region=region, box=box, voxels=voxels)


def _without(part: _Part, others: list[_Part]) -> list[_Part]:
    """Return what of a region is in none of `others`."""
    boxes = [part.box]
    for other in others:
        if not other.box.overlaps(part.box):
            continue
        boxes = [piece for box in boxes for piece in box.without(other.box)]
    if boxes == [part.box]:
        return [part]
    return [replace(part, region=as_region(box), box=box) for box in boxes]


def _of_parts(pair: VolumePair, parts: list[_Part], *, is_full: bool) -> VolumePair:
    """Return a volume of which `parts` alone are annotated; where all of it is, one part is all that there is."""
    if is_full and len(parts) == 1:
        return pair.model_copy(update={"region": parts[0].region})
    return pair.model_copy(update={"regions": tuple(part.region for part in parts)})
