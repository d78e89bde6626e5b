"""Patches for training (random, with foreground) and for validation (a grid), read from volumes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from connectomics_zoo.intensity import scale_intensity
from connectomics_zoo.resample import downsample_image, downsample_labels
from connectomics_zoo.schema.experiment import DataSpec, RunSpec, VolumePair
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
    """(1, Z, Y, X), 1 where the patch lies inside the region that counts."""


class PairReader:
    """Reads patches of one image and its labels in network voxels; opens its files when it is first used."""

    def __init__(self, pair: VolumePair, data: DataSpec) -> None:
        self.pair = pair
        self.data = data
        self.root = Path(data.root).expanduser() if data.root is not None else None
        self.image: Volume = open_volume(pair.image, root=self.root, voxel_size_nm=data.voxel_size_nm)
        self.label: Volume = open_volume(pair.label, root=self.root, voxel_size_nm=data.voxel_size_nm)
        factors = data.downsample
        self.extent = tuple(-(-length // factor) for length, factor in zip(self.image.shape, factors, strict=True))
        self.box = _network_box(pair, self.image.shape, factors)

    @property
    def voxel_size_nm(self) -> tuple[float, ...] | None:
        """Edge lengths (z, y, x) of a network voxel."""
        size = self.image.voxel_size_nm
        if size is None:
            return None
        return tuple(edge * factor for edge, factor in zip(size, self.data.downsample, strict=True))

    def read_image(self, box: Box) -> NDArray[np.float32]:
        """Return the intensities (C, Z, Y, X) in `box`, reflected where it reaches beyond the volume."""
        inside, padding = _clip(box, self.extent)
        raw = self.image.read(self._volume_slices(inside))
        raw = raw if raw.ndim == 4 else raw[None]
        scaled = scale_intensity(raw, dtype=self.image.dtype, intensity_range=self.data.intensity_range)
        channels = [downsample_image(channel, self.data.downsample) for channel in scaled]
        return np.pad(np.stack(channels), ((0, 0), *padding), mode="reflect").astype(np.float32, copy=False)

    def read_label(self, box: Box) -> NDArray[np.generic]:
        """Return the labels (Z, Y, X) in `box`, reflected where it reaches beyond the volume."""
        inside, padding = _clip(box, self.extent)
        labels = downsample_labels(self.label.read(self._volume_slices(inside)), self.data.downsample)
        return np.pad(labels, padding, mode="reflect")

    def _volume_slices(self, box: Box) -> tuple[slice, slice, slice]:
        z, y, x = (
            slice(first * factor, min(last * factor, length))
            for (first, last), factor, length in zip(box, self.data.downsample, self.image.shape, strict=True)
        )
        return z, y, x


def _network_box(pair: VolumePair, shape: tuple[int, ...], factors: tuple[int, ...]) -> Box:
    """The pair's region in network voxels; a voxel that is partly outside is left out unless nothing else is left."""
    ranges = []
    for axis, length, factor in zip("zyx", shape, factors, strict=True):
        first, last = getattr(pair.region, axis) or (0, length)
        low = -(-first // factor)
        high = -(-last // factor) if last == length else last // factor
        ranges.append((low, max(high, low + 1)))
    z, y, x = ranges
    return z, y, x


def _clip(box: Box, extent: tuple[int, ...]) -> tuple[Box, tuple[tuple[int, int], ...]]:
    """The part of `box` inside the volume, and how much of it lies before and behind that part."""
    inside = tuple((max(first, 0), min(last, length)) for (first, last), length in zip(box, extent, strict=True))
    padding = tuple(
        (inner[0] - outer[0], outer[1] - inner[1]) for inner, outer in zip(inside, box, strict=True)
    )
    z, y, x = inside
    return (z, y, x), padding


class TrainingPatches(IterableDataset[Patch]):
    """An endless stream of random patches; the same seed and number of workers give the same stream."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run

    def __iter__(self) -> Iterator[Patch]:
        worker = get_worker_info()
        generator = np.random.default_rng([self.run.training.seed, worker.id if worker is not None else 0])
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
        targets = make_targets(reader.read_label(box), task=self.run.task, voxel_size_nm=reader.voxel_size_nm)
        image, targets = augment(
            reader.read_image(box),
            targets,
            mode=recipe.augmentation,
            planes=rotation_planes(recipe.patch_size, reader.voxel_size_nm),
            generator=generator,
        )
        return Patch(torch.from_numpy(image), torch.from_numpy(targets), torch.ones(1, *image.shape[1:]))

    def _foreground_box(self, reader: PairReader, box: Box, generator: np.random.Generator) -> Box:
        """Move `box` so that a labelled voxel is at its centre, as far as the region allows."""
        for _ in range(FOREGROUND_TRIES):
            found = np.argwhere(reader.read_label(box) > 0)
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
            for box, scored in grid_boxes(reader.box, run.training.patch_size, reader.extent)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Patch:
        reader_index, box, scored = self.items[index]
        reader = self.readers[reader_index]
        targets = make_targets(reader.read_label(box), task=self.run.task, voxel_size_nm=reader.voxel_size_nm)
        mask = np.zeros((1, *self.run.training.patch_size), dtype=np.float32)
        z, y, x = (slice(low - first, high - first) for (first, _), (low, high) in zip(box, scored, strict=True))
        mask[:, z, y, x] = 1
        return Patch(torch.from_numpy(reader.read_image(box)), torch.from_numpy(targets), torch.from_numpy(mask))


def grid_boxes(region: Box, size: tuple[int, ...], extent: tuple[int, ...]) -> list[tuple[Box, Box]]:
    """Return patches of `size` that cover `region`, each with the part of the region that it alone is scored on."""
    axes = []
    for (first, last), edge, length in zip(region, size, extent, strict=True):
        if last - first <= edge:  # one patch, around the region's middle, inside the volume if it fits there
            start = min(max((first + last - edge) // 2, 0), max(length - edge, 0))
            axes.append([((start, start + edge), (first, last))])
            continue
        tiles = []
        for low in range(first, last, edge):
            high = min(low + edge, last)
            tiles.append(((high - edge, high), (low, high)))
        axes.append(tiles)
    return [
        ((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z in axes[0] for y in axes[1] for x in axes[2]
    ]
