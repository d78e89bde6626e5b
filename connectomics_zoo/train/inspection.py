"""Looks at the volumes of a run before it begins: refuses what is wrong, and warns of what is hardly meant."""

from __future__ import annotations

import itertools
import logging
from contextlib import ExitStack
from functools import partial

import numpy as np

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.schema.experiment import DataSpec, Region, RunSpec, VolumePair
from connectomics_zoo.schema.task import ChannelSpec, TaskSpec
from connectomics_zoo.tasks.targets import check_voxel_size, make_targets
from connectomics_zoo.train.annotated import first_annotated
from connectomics_zoo.volumes import Volume, check_mask, check_pair, open_volume
from connectomics_zoo.volumes.box import Box, annotated_boxes, region_box
from connectomics_zoo.volumes.intensity import check_contrast, scale_intensity
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.pair_reader import PairReader, network_box, network_grid
from connectomics_zoo.volumes.sampling import random_blocks
from connectomics_zoo.volumes.truth import read_truth, with_background

_log = logging.getLogger(__name__)

SCANNED_VOXELS = 2**28
"""Float volumes up to this size are looked through for NaN before anything is made, larger ones as they are read."""

_ENDLESS = 2**62
"""More voxels than an axis has."""

ENOUGH_BLOCKS = 4
"""Blocks of labels after which all is well if every target varies."""


def inspect_volumes(data: DataSpec, *, task: TaskSpec) -> tuple[int, tuple[float, float, float] | None]:
    """Open every pair, check it, and return the number of channels and the voxel size that they share, None if none.

    Raises:
        ZooError: a volume, a region, or what they have in common is wrong.
    """
    channels: set[int] = set()
    voxel_sizes: set[tuple[float, float, float]] = set()
    for pair in (*data.train, *data.validation):
        with ExitStack() as opened:
            image, mask = (
                None if location is None else opened.enter_context(_open(location, data))
                for location in (pair.image, pair.mask)
            )
            labels = [opened.enter_context(_open(place, data)) for place in pair.label_places.values()]
            assert image is not None
            for label in labels:
                check_pair(image, label, continuous=has_values(task))
            if mask is not None:
                check_mask(image, mask)
            box = region_box(pair.region, shape=image.shape, location=image.location)
            grid = network_grid(image, data)
            network_box(box, grid)
            if data.network_voxel_size_nm is not None and task.affinities is not None and grid.ratios != (1, 1, 1):
                raise SpecError(
                    f"{image.location} would be resampled (data.network_voxel_size_nm), and affinities do not go "
                    "together with that, since offsets are in voxels of the volume when they are decoded: resample the "
                    "volume itself."
                )
            for part in annotated_boxes(pair, shape=image.shape, location=image.location) or ():
                network_box(part, grid)
            check_contrast(image, box, intensity_range=data.intensity_range)
            if box.voxels <= SCANNED_VOXELS:
                _scan(image, labels[0], mask, box, data=data, task=task, pair=pair)
            channels.add(image.channels or 1)
            check_voxel_size(task, data.network_voxel_size_nm or image.voxel_size_nm)
            if image.voxel_size_nm is not None:
                voxel_sizes.add(image.voxel_size_nm)
    if len(channels) > 1:
        raise SpecError(f"the images have {sorted(channels)} channels, all must have the same number.")
    if len(voxel_sizes) > 1 and data.network_voxel_size_nm is None:
        raise SpecError(
            f"the images have the voxel sizes {sorted(voxel_sizes)} nm, and a network sees one: add "
            "data.network_voxel_size_nm=[Z,Y,X], to which they are resampled as they are read."
        )
    return channels.pop(), voxel_sizes.pop() if len(voxel_sizes) == 1 else None


def _open(location: str, data: DataSpec) -> Volume:
    return open_volume(location, root=data.folder, voxel_size_nm=data.voxel_size_nm)


def _scan(
    image: Volume, label: Volume, mask: Volume | None, box: Box, *, data: DataSpec, task: TaskSpec, pair: VolumePair
) -> None:
    """Read what is made of floats, whose values may be anything, section by section; these have one label volume."""
    regions = annotated_boxes(pair, shape=image.shape, location=image.location)
    for row in range(box.start[0], box.stop[0]):
        section = box.replace(z=(row, row + 1))
        if image.dtype.kind == "f":
            scale_intensity(image.read(section), dtype=image.dtype, intensity_range=data.intensity_range)
        if has_values(task):
            labels, annotated = read_truth(label, mask, section, unlabelled=data.unlabelled, regions=regions)
            make_targets(labels, task=task, voxel_size_nm=None, annotated=annotated)


def warn_of_overlap(data: DataSpec) -> None:
    """Log which volumes are validated on where they are trained on: their score says nothing about new data."""
    for train, validation in itertools.product(data.train, data.validation):
        shared = any(
            first.intersection(second).voxels
            for first, second in itertools.product(_stated_boxes(train), _stated_boxes(validation))
        )
        if train.image == validation.image and shared:
            _log.warning(
                "%s is validated on where it is trained on, so its score says nothing about new data: give regions "
                "that do not overlap, as data.train.region.z=[0, 13] data.validation.region.z=[13, 16]",
                validation.image,
            )


def _stated_boxes(pair: VolumePair) -> list[Box]:
    """Return the annotated boxes that a spec states, of a volume without bounds."""
    endless = (_ENDLESS,) * 3
    part = region_box(pair.region, shape=endless, location=pair.image)
    return list(annotated_boxes(pair, shape=endless, location=pair.image) or [part])


def warn_of_padding(run: RunSpec) -> None:
    """Log which training volumes are smaller than a patch: what they lack is a reflection of themselves."""
    for pair in run.data.train:
        box = PairReader(pair, run.data).box
        given = run.model.input.given  # a context around it may always be reflected
        edges, minimum = given(run.training.patch_size), given(run.model.input.size.minimum)
        if any(length < edge for length, edge in zip(box.shape, edges, strict=True)):
            fits = all(length >= edge for length, edge in zip(box.shape, minimum, strict=True))
            _log.warning(
                "%s has %s network voxels and the patch %s: the missing ones are reflections, %s%s",
                pair.image,
                " x ".join(map(str, box.shape)),
                " x ".join(map(str, edges)),
                "a smaller training.patch_size needs none"
                if fits
                else f"which {run.model.name} needs at least for its smallest patch, {' x '.join(map(str, minimum))}",
                "" if pair.region == Region() else "; regions in place of region keep the image around them as context",
            )


def warn_of_labels(run: RunSpec) -> None:
    """Log which label volumes look like what they should not be, or give the same target everywhere in their region.

    Large volumes are not looked through: of their blocks, a few at random.

    Raises:
        VolumeError: labels are negative, a grey image, or it is not clear which are background; or nothing is
            annotated.
    """
    for pair in (*run.data.train, *run.data.validation):
        reader = PairReader(pair, run.data)
        try:
            for place, problem in _label_problems(reader, task=run.task):
                _log.warning("%s %s", place, problem)
        finally:
            reader.close()


def label_blocks(reader: PairReader) -> tuple[list[Box], int]:
    """Return the blocks of labels that are looked at, in random order, and how many there are.

    Raises:
        VolumeError: nothing is annotated.
    """
    image = reader.image
    parts = reader.regions or (region_box(reader.pair.region, shape=image.shape, location=image.location),)
    looks = [random_blocks(part) for part in parts]
    rows = itertools.zip_longest(*(some for some, _ in looks))
    blocks = [block for row in rows for block in row if block is not None]
    if reader.mask is None and reader.data.unlabelled is None:
        return blocks, sum(count for _, count in looks)
    found = first_annotated(parts, reader.read_volume_truth)
    if found is None:
        raise VolumeError(
            f"{reader.label_locations}: is annotated nowhere in the part that is used, check data.unlabelled, the mask "
            "and the region."
        )
    if first_annotated(reader.parts, partial(reader.read_truth, within=reader.box)) is None:
        raise VolumeError(
            f"{reader.label_locations}: has no network voxel of which all voxels are annotated, downsample less."
        )
    if any(reader.read_volume_truth(block).annotated.any() for block in blocks[:ENOUGH_BLOCKS]):
        return blocks, sum(count for _, count in looks)
    return random_blocks(found)[0] + blocks, sum(count for _, count in looks)


def _label_problems(reader: PairReader, *, task: TaskSpec) -> list[tuple[str, str]]:
    """Return what looks wrong with the labels of a pair: the place of a volume, and what is to be said of it."""
    blocks, total = label_blocks(reader)
    channels = _looked_at(task)
    looked_at = task.model_copy(update={"channels": channels})
    named = reader.pair.annotated
    annotates = None if named is None else [channel.name for channel in channels if channel.name in named]
    low, high = np.full(len(channels), np.inf), np.full(len(channels), -np.inf)
    looks = {name: LabelLook() for name in reader.labels}
    places = reader.pair.label_places
    for done, block in enumerate(blocks):
        if done >= ENOUGH_BLOCKS and (low < high).all():
            break
        labels, annotated = reader.read_volume_truth(block)
        targets, known = make_targets(
            labels,
            task=looked_at,
            voxel_size_nm=reader.image.voxel_size_nm,
            annotated=annotated,
            volumes=tuple(places),
            classes=annotates,
        )
        low = np.minimum(low, np.where(known, targets, np.inf).min(axis=(1, 2, 3)))
        high = np.maximum(high, np.where(known, targets, -np.inf).max(axis=(1, 2, 3)))
        for name, is_known in zip(places, annotated if annotated.ndim == 4 else annotated[np.newaxis], strict=True):
            looks[name].add(with_background(reader.labels[name].read_plain(block), reader.data.background), is_known)
    problems: list[tuple[str, str]] = []
    for name, look in looks.items():
        volume = reader.labels[name]
        if has_values(task):
            look.refuse_unclear(volume.dtype, location=volume.location)
            continue
        found = look.check(volume.dtype, location=volume.location)
        if not found and look.objects_as_mask and _is_cut_at_0(task, name):
            found = [look.objects_as_mask]
        problems.extend((places[name], problem) for problem in found)
        if task.decode.is_instances and not task.labels.relabel and look.is_mask:
            problems.append(
                (
                    places[name],
                    "looks like a mask, of which all objects are one: label its objects first (scipy.ndimage.label), "
                    "or take a task that does (labels.relabel)",
                )
            )
    part = "its region" if len(blocks) == total else f"the {len(blocks)} of {total} blocks that were looked at"
    for channel, smallest, largest in zip(channels, low, high, strict=True):
        if reader.pair.annotated is not None and channel.name not in reader.pair.annotated:
            continue
        target = f"the target of {channel.name!r} ({channel.target.kind})"
        place = places[channel.target.volume]
        if smallest > largest:
            problems.append(
                (place, f"leaves {target} unknown in all of {part}: check mask, unlabelled and the region's size")
            )
        elif smallest == largest == 1 and channel.target.kind == "foreground" and reader.data.unlabelled == 0:
            raise VolumeError(
                f"{reader.labels[channel.target.volume].location}: has no background, since data.unlabelled=0 takes "
                f"its 0 for not annotated and every other label is foreground of {channel.name!r}: say which one is "
                "background, as data.background=1."
            )
        elif smallest == largest and not (task.has_classes and largest == 0):  # which look_for_classes says
            problems.append(
                (
                    place,
                    f"makes {target} {smallest:g} in all of {part}: check that volume and region are the right ones",
                )
            )
    return problems


def _is_cut_at_0(task: TaskSpec, volume: str | None) -> bool:
    """Whether all that a task makes of a label volume is foreground and background."""
    kinds = {channel.target.kind for channel in task.channels if channel.target.volume == volume}
    return bool(kinds) and kinds <= {"foreground", "background"}


def _looked_at(task: TaskSpec) -> tuple[ChannelSpec, ...]:
    """The channels whose targets should vary and are soon made: distances and shapes are of the same objects.

    Repulsive affinities reach far, and may well be 0 everywhere.
    """
    return tuple(
        channel
        for channel in task.channels
        if channel.target.kind not in ("distance", "lsd") and channel.target.attractive is not False
    )


def has_values(task: TaskSpec) -> bool:
    """Whether labels are numbers in 0..1."""
    return any(channel.target.kind == "value" for channel in task.channels)
