"""Patches for training (random, with foreground) and for validation (a grid), read from volumes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.intensity import scale_intensity
from connectomics_zoo.resample import downsample_image, downsample_labels
from connectomics_zoo.schema.experiment import DataSpec, Region, RunSpec, VolumePair
from connectomics_zoo.targets import make_targets
from connectomics_zoo.training.augment import augment, rotation_planes
from connectomics_zoo.volumes import Volume, open_volume

FOREGROUND_TRIES = 20
"""Random patches looked at for a foreground voxel before the last one is taken as it is."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""[first, last + 1] of voxels along z, y, x."""


class Patch(NamedTuple):
    """What a data loader stacks into a batch."""

    image: Tensor
    """(C, Z, Y, X), intensities scaled to 0..1."""
    targets: Tensor
    """(C, Z, Y, X)."""
    mask: Tensor
    """(1, Z, Y, X), 1 where validation scores the patch."""


class PairReader:
    """Reads patches of one image and its labels in network voxels; opens its files when it is first used."""

    def __init__(self, pair: VolumePair, data: DataSpec) -> None:
        self.pair = pair
        self.data = data
        self.root = Path(data.root).expanduser() if data.root is not None else None
        self.image: Volume = open_volume(pair.image, root=self.root, voxel_size_nm=data.voxel_size_nm)
        self.label: Volume = open_volume(pair.label, root=self.root, voxel_size_nm=data.voxel_size_nm)
        factors = data.downsample
        self.whole: Box = network_box(Region(), self.image.shape, factors)
        """The whole volume, in network voxels."""
        self.box: Box = network_box(pair.region, self.image.shape, factors)
        """The pair's region, in network voxels."""

    @property
    def voxel_size_nm(self) -> tuple[float, ...] | None:
        """Edge lengths (z, y, x) of a network voxel."""
        size = self.image.voxel_size_nm
        if size is None:
            return None
        return tuple(edge * factor for edge, factor in zip(size, self.data.downsample, strict=True))

    def read_image(self, box: Box, *, within: Box) -> NDArray[np.float32]:
        """Return the intensities (C, Z, Y, X) in `box`, reflected where it reaches out of `within`."""
        inside, padding = _clip(box, within)
        raw = self.image.read(self._volume_slices(inside))
        raw = raw if raw.ndim == 4 else raw[None]
        scaled = scale_intensity(raw, dtype=self.image.dtype, intensity_range=self.data.intensity_range)
        channels = [downsample_image(channel, self.data.downsample) for channel in scaled]
        return np.pad(np.stack(channels), ((0, 0), *padding), mode="reflect").astype(np.float32, copy=False)

    def read_label(self, box: Box, *, within: Box) -> NDArray[Any]:
        """Return the labels (Z, Y, X) in `box`, reflected where it reaches out of `within`."""
        inside, padding = _clip(box, within)
        labels = downsample_labels(self.label.read(self._volume_slices(inside)), self.data.downsample)
        return np.pad(labels, padding, mode="reflect")

    def _volume_slices(self, box: Box) -> tuple[slice, slice, slice]:
        z, y, x = (
            slice(first * factor, min(last * factor, length))
            for (first, last), factor, length in zip(box, self.data.downsample, self.image.shape, strict=True)
        )
        return z, y, x


def network_box(region: Region, shape: tuple[int, ...], factors: tuple[int, ...]) -> Box:
    """Return the network voxels that lie wholly inside `region` of a volume of `shape`.

    Raises:
        VolumeError: there is none along an axis.
    """
    ranges = []
    for axis, limits, length, factor in zip("zyx", (region.z, region.y, region.x), shape, factors, strict=True):
        first, last = limits or (0, length)
        low = -(-first // factor)
        high = -(-last // factor) if last == length else last // factor
        if low >= high:
            raise VolumeError(
                f"region {axis}: [{first}, {last}] holds no whole block of {factor} voxels (data.downsample), "
                "make it larger or downsample less."
            )
        ranges.append((low, high))
    z, y, x = ranges
    return z, y, x


def _clip(box: Box, within: Box) -> tuple[Box, tuple[tuple[int, int], ...]]:
    """The part of `box` inside `within`, and how much of it lies before and behind that part."""
    inside = tuple((max(first, low), min(last, high)) for (first, last), (low, high) in zip(box, within, strict=True))
    padding = tuple((inner[0] - outer[0], outer[1] - inner[1]) for inner, outer in zip(inside, box, strict=True))
    z, y, x = inside
    return (z, y, x), padding


class TrainingPatches(IterableDataset[Patch]):
    """An endless stream of random patches; the same seed and number of workers give the same stream.

    Args:
        run: the complete run.
        skip: optimiser steps that a resumed run has behind it; they choose another stream, so that its patches are
            not drawn again.
    """

    def __init__(self, run: RunSpec, *, skip: int = 0) -> None:
        self.run = run
        self.skip = skip

    def __iter__(self) -> Iterator[Patch]:
        worker = get_worker_info()
        generator = np.random.default_rng([self.run.training.seed, self.skip, worker.id if worker is not None else 0])
        readers = [PairReader(pair, self.run.data) for pair in self.run.data.train]
        volumes = np.array([np.prod([last - first for first, last in reader.box]) for reader in readers], dtype=float)
        while True:
            reader = readers[int(generator.choice(len(readers), p=volumes / volumes.sum()))]
            yield self._draw(reader, generator)

    def _draw(self, reader: PairReader, generator: np.random.Generator) -> Patch:
        recipe = self.run.training
        box = _random_box(reader.box, recipe.patch_size, generator)
        if generator.random() < recipe.foreground_probability:
            box = self._foreground_box(reader, box, generator)
        # Reflected at the region, not read beyond it: what lies there may be what the run is validated on.
        labels = reader.read_label(box, within=reader.box)
        image, targets = augment(
            reader.read_image(box, within=reader.box),
            make_targets(labels, task=self.run.task, voxel_size_nm=reader.voxel_size_nm),
            mode=recipe.augmentation,
            planes=rotation_planes(recipe.patch_size, reader.voxel_size_nm),
            generator=generator,
        )
        return Patch(torch.from_numpy(image), torch.from_numpy(targets), torch.ones(1, *image.shape[1:]))

    def _foreground_box(self, reader: PairReader, box: Box, generator: np.random.Generator) -> Box:
        """Move `box` so that a labelled voxel is at its centre, as far as the region allows."""
        for _ in range(FOREGROUND_TRIES):
            found = np.argwhere(reader.read_label(box, within=reader.box) > 0)
            if len(found):
                offset = found[int(generator.integers(len(found)))]
                centre = tuple(first + int(step) for (first, _), step in zip(box, offset, strict=True))
                return _centred_box(reader.box, centre, self.run.training.patch_size)
            box = _random_box(reader.box, self.run.training.patch_size, generator)
        return box


def _random_box(region: Box, size: tuple[int, ...], generator: np.random.Generator) -> Box:
    starts = [
        int(generator.integers(first, max(last - edge, first) + 1))
        for (first, last), edge in zip(region, size, strict=True)
    ]
    return _box_at(starts, size)


def _centred_box(region: Box, centre: tuple[int, ...], size: tuple[int, ...]) -> Box:
    starts = [
        min(max(middle - edge // 2, first), max(last - edge, first))
        for (first, last), middle, edge in zip(region, centre, size, strict=True)
    ]
    return _box_at(starts, size)


def _box_at(starts: list[int], size: tuple[int, ...]) -> Box:
    z, y, x = ((start, start + edge) for start, edge in zip(starts, size, strict=True))
    return z, y, x


class ValidationPatches(Dataset[Patch]):
    """Patches that cover every validation region once, with a mask of what each is to be scored on.

    Where a region is thinner than a patch, the patch reaches into the image around it: context that is not
    scored, as in the prediction of the whole volume.
    """

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self.readers = [PairReader(pair, run.data) for pair in run.data.validation]
        self.items = [
            (index, box, scored)
            for index, reader in enumerate(self.readers)
            for box, scored in grid_boxes(reader.box, run.training.patch_size, reader.whole)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Patch:
        reader_index, box, scored = self.items[index]
        reader = self.readers[reader_index]
        labels = reader.read_label(box, within=reader.whole)
        targets = make_targets(labels, task=self.run.task, voxel_size_nm=reader.voxel_size_nm)
        mask = np.zeros((1, *self.run.training.patch_size), dtype=np.float32)
        z, y, x = (slice(low - first, high - first) for (first, _), (low, high) in zip(box, scored, strict=True))
        mask[:, z, y, x] = 1
        image = reader.read_image(box, within=reader.whole)
        return Patch(torch.from_numpy(image), torch.from_numpy(targets), torch.from_numpy(mask))


def grid_boxes(region: Box, size: tuple[int, ...], whole: Box) -> list[tuple[Box, Box]]:
    """Return patches of `size` that cover `region`, each with the part of the region that it alone is scored on."""
    axes = []
    for (first, last), edge, (_, length) in zip(region, size, whole, strict=True):
        if last - first <= edge:  # one patch, around the region's middle, inside the volume if it fits there
            start = min(max((first + last - edge) // 2, 0), max(length - edge, 0))
            axes.append([((start, start + edge), (first, last))])
            continue
        tiles = []
        for low in range(first, last, edge):
            high = min(low + edge, last)
            tiles.append(((high - edge, high), (low, high)))
        axes.append(tiles)
    return [((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z in axes[0] for y in axes[1] for x in axes[2]]
