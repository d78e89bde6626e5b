"""What lies over what: volumes, labels and probabilities as layers, each with its place in the world."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.target import TargetSpec
from connectomics_zoo.view.pyramid import levels_of
from connectomics_zoo.view.source import Source
from connectomics_zoo.volumes import Box, Volume, VoxelSize
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import Location, find_volume
from connectomics_zoo.volumes.opening import open_array
from connectomics_zoo.volumes.placement import offset_of_part
from connectomics_zoo.volumes.prediction import PROBABILITY, scale_of
from connectomics_zoo.volumes.voxel_size import lengths

Kind = Literal["image", "probability", "labels"]

SHOWN = 6
"""Channels of a prediction that are shown at first; the others are there, to be switched on."""

PERCENTILES = (0.5, 99.5)
"""Of a sample of an image, what is black and white."""

_SAMPLE = (16, 256, 256)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """One layer of the picture."""

    name: str
    """What it is called; each has another name."""
    kind: Kind
    """How it is shown."""
    source: Source
    """What is shown."""
    where: Location
    """What it was found by."""
    channel: int = 0
    """The channel of the source that is shown."""
    contrast: tuple[float, float] = (0.0, 1.0)
    """The values that are black and white, or of probabilities, transparent and opaque."""
    number: int = 0
    """Its place among the channels or classes of its volume, which decides on its colour."""
    visible: bool = True
    """Whether it is shown at first."""


@dataclass(frozen=True)
class Scene:
    """Layers, the lowest first, and the place that is looked at."""

    layers: tuple[Layer, ...]
    """The first one is the image that voxels are counted in."""
    position: tuple[float, float, float]
    """What is in the middle (z, y, x), in voxels of the first layer, from the corner of its first voxel."""

    @property
    def first(self) -> Source:
        """The volume that voxels are counted in."""
        return self.layers[0].source

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the layers show, each once."""
        return tuple({id(layer.source): layer.source for layer in self.layers}.values())

    def close(self) -> None:
        """Close all volumes."""
        for source in self.sources:
            source.close()


def open_scene(
    volumes: Sequence[str | Path],
    *,
    labels: Sequence[str | Path] = (),
    probability: Sequence[str | Path] = (),
    at: Sequence[int] | None = None,
    voxel_size_nm: VoxelSize | None = None,
) -> Scene:
    """Open volumes as layers: images below, probabilities over them, labels on top.

    What says of itself that it is labels or a prediction is shown as such, wherever it is named. One that does not say
    its voxel size has `voxel_size_nm`, or that of the first volume where it is as large or was predicted from it, or
    1 nm, which is logged. It lies where it says, or as a part of the first volume, or where that lies.

    Args:
        volumes: images.
        labels: labels or objects.
        probability: predictions, or other volumes with a channel for each thing.
        at: the voxel of the first volume that is looked at (z, y, x); by default its middle.
        voxel_size_nm: (z, y, x), of volumes that do not say theirs.

    Raises:
        VolumeError: a volume cannot be read or shown, or there is no such voxel.
        MissingPackageError: the format of one needs a package that is not installed.
    """
    asked: list[tuple[str | Path, Kind | None]] = [(place, None) for place in volumes]
    asked += [(place, "probability") for place in probability] + [(place, "labels") for place in labels]
    if not asked:
        raise VolumeError("there is nothing to look at, give a volume.")
    opened: list[Layer] = []
    try:
        for place, kind in asked:
            first = opened[0].source if opened else None
            opened += _open_layers(find_volume(place), kind, first=first, voxel_size_nm=voxel_size_nm)
        counted_in = opened[0].source
        position = _position(counted_in, at)
    except BaseException:
        for layer in opened:
            layer.source.close()
        raise
    order: tuple[Kind, ...] = ("image", "probability", "labels")
    layers = _named(sorted(opened, key=lambda layer: order.index(layer.kind)))
    return Scene(tuple(sorted(layers, key=lambda layer: layer.source is not counted_in)), position)


def _position(source: Source, at: Sequence[int] | None) -> tuple[float, float, float]:
    shape = source.volume.shape
    if at is None:
        z, y, x = (length / 2 for length in shape)
    elif len(at) == 3 and all(0 <= voxel < length for voxel, length in zip(at, shape, strict=True)):
        z, y, x = (voxel + 0.5 for voxel in at)
    else:
        raise VolumeError(
            f"{source.volume.location}: has no voxel {tuple(at)}, its shape is {shape}: give z,y,x with "
            f"{', '.join(f'0 <= {axis} < {length}' for axis, length in zip('zyx', shape, strict=True))} (--at)."
        )
    return z, y, x


def _open_layers(
    where: Location, kind: Kind | None, *, first: Source | None, voxel_size_nm: VoxelSize | None
) -> list[Layer]:
    """Open a volume, and return a layer for each of its channels that is one."""
    array = open_array(where)
    try:
        volume = Volume(where, array=array, voxel_size_nm=None)
    except BaseException:
        array.close()
        raise
    kind = kind or _declared_kind(volume)
    if kind == "labels" and volume.dtype.kind == "f":
        raise VolumeError(
            f"{volume.location}: holds {volume.dtype}, and labels are whole numbers: show it as probabilities "
            "(--probability), or decode it first (zoo decode)."
        )
    size = _voxel_size(volume, given=voxel_size_nm, first=first)
    offset = _offset(volume, size, where, first=first)
    levels = levels_of(volume, where=where, voxel_size_nm=size)
    name = where.dataset or where.place.name

    def source(channel: int | None = None) -> Source:
        named = volume.class_names if kind == "labels" and channel is None else {}
        names = {value: called for value, called in named.items() if value}
        return Source(levels, size, offset, kind == "labels", channel, names)

    if kind == "image":
        whole = source()
        return [Layer(name, kind, whole, where, contrast=_contrast(whole))]
    titles = _channel_titles(volume, name)
    if kind == "labels":
        if volume.channels in (None, 1):
            return [Layer(name, kind, source(), where)]
        return [Layer(title, kind, source(channel), where, number=channel) for channel, title in enumerate(titles)]
    whole, targets = source(), _targets(volume)
    return [
        Layer(
            titles[channel],
            kind,
            whole,
            where,
            channel,
            _range(volume, channel, target),
            number=channel,
            visible=channel < SHOWN and (target is None or not (target.is_background or target.attractive is False)),
        )
        for channel, target in enumerate(targets)
    ]


def _declared_kind(volume: Volume) -> Kind:
    if volume.content == "probability":
        return "probability"
    return "image" if volume.content is None else "labels"


def _channel_titles(volume: Volume, name: str) -> list[str]:
    """Return the name of the volume with that of each channel: by the task, by `class_names`, or by their numbers."""
    count = volume.channels or 1
    task = volume.stored().task
    if task is not None and len(task.channels) == count:
        return [f"{name}: {channel.name}" for channel in task.channels]
    if count == 1 and not volume.class_names:
        return [name]
    return [f"{name}: {volume.class_names.get(channel, f'channel {channel}')}" for channel in range(count)]


def _is_of(volume: Volume, first: Source) -> bool:
    """Whether a volume is as large as the first one, or says that it was predicted from one as large."""
    placement = volume.placement
    return (volume.shape if placement is None else placement.whole_shape) == first.volume.shape


def _voxel_size(volume: Volume, *, given: VoxelSize | None, first: Source | None) -> VoxelSize:
    if volume.voxel_size_nm is not None:
        return volume.voxel_size_nm
    if given is not None:
        return given
    if first is not None and _is_of(volume, first):
        if first.volume.voxel_size_nm is not None:
            size = lengths(first.voxel_size_nm)
            _log.warning(
                "%s: does not say its voxel size, that of the first volume is taken: %s nm.", volume.location, size
            )
        return first.voxel_size_nm
    _log.warning("%s: does not say its voxel size, 1 x 1 x 1 nm is taken: give it by --voxel-size-nm.", volume.location)
    return (1.0, 1.0, 1.0)


def _offset(volume: Volume, size: VoxelSize, where: Location, *, first: Source | None) -> Offset:
    """Return where the corner of the first voxel lies, if that of the first volume lies where that says."""
    if volume.offset_nm is not None:
        if first is None or where.format == "precomputed":
            return volume.offset_nm
        # OME-Zarr and N5 say where the centre lies, which is further from the corner where voxels are larger.
        triples = zip(volume.offset_nm, size, first.voxel_size_nm, strict=True)
        z, y, x = (place - (edge - other) / 2 for place, edge, other in triples)
        return z, y, x
    is_of_first = first is not None and _is_of(volume, first)
    start = first.offset_nm if first is not None and is_of_first else (0.0, 0.0, 0.0)
    if volume.placement is None:
        return start
    return offset_of_part(volume.placement.box.start, voxel_size_nm=size, whole_offset_nm=start)


def _contrast(source: Source) -> tuple[float, float]:
    """Return the percentiles of a few blocks of the first channel: in the middle, and around it."""
    level = source.levels[-1] if max(source.levels[-1].step) == 1 else source.levels[0]
    number = source.levels.index(level)
    flat = level.chunk[0] == 1
    edges = (1 if flat else _SAMPLE[0], *_SAMPLE[1:])
    whole = Box.of_shape(level.shape)
    boxes = [whole.middle((edges[0], edges[1], edges[2]))]
    for share in (0.25, 0.75):
        z, y, x = (max(0, int(share * length) - edge // 2) for length, edge in zip(level.shape, edges, strict=True))
        boxes.append(Box.of_shape(edges, start=(z, y, x)).intersection(whole))
    samples = [source.read(number, box)[0].ravel() for box in boxes if box.voxels]
    varied = [sample for sample in samples if sample.size and sample.min() < sample.max()]
    low, high = np.percentile(np.concatenate(varied or samples), PERCENTILES)
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1)


def _targets(volume: Volume) -> list[TargetSpec | None]:
    """Return what each channel was trained on, None where the file does not say it."""
    count = volume.channels or 1
    task = volume.stored().task
    return [None] * count if task is None or len(task.channels) != count else [c.target for c in task.channels]


def _range(volume: Volume, channel: int, target: TargetSpec | None) -> tuple[float, float]:
    """Return the values of a channel where it is transparent and where it is opaque.

    Affinities are high in all objects and low at their boundaries, which are what there is to see.
    """
    if volume.dtype.kind == "f":
        task = volume.stored().task
        low, high = PROBABILITY if task is None or target is None else scale_of(task)[channel]
    else:
        low, high = 0.0, 1.0 if volume.dtype.kind == "b" else float(np.iinfo(volume.dtype).max)
    return (high, low) if target is not None and target.kind == "affinity" else (low, high)


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with a number behind names that there are twice."""
    taken: set[str] = set()
    named = []
    for layer in layers:
        name, number = layer.name, 2
        while name in taken:
            name, number = f"{layer.name} ({number})", number + 1
        taken.add(name)
        named.append(dataclasses.replace(layer, name=name))
    return named
