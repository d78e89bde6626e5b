"""Where patches lie: at random and around what is labelled in training, in a grid in validation."""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import numpy as np

from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader

FOREGROUND_TRIES = 256
"""Blocks (of half a patch's edges) drawn in search of a labelled voxel before a patch may lie anywhere."""

MINIMUM_TRIES = 50
"""Patches drawn in search of one with `foreground_minimum`, of which the last may have less."""

REMEMBERED_BLOCKS = 2**20
"""Blocks without labels that are remembered for each volume."""


class ForegroundFinder:
    """Finds labelled voxels of a region block by block; no block that has none is read twice.

    What it remembers saves reading, and changes no result: that follows from the generator alone.

    Args:
        reader: the volume.
        block: edges (z, y, x) of a block in network voxels; the last one along an axis may be larger.
    """

    def __init__(self, reader: PairReader, *, block: tuple[int, ...]) -> None:
        self.reader = reader
        self.block = block
        self.counts = tuple(max(1, length // edge) for length, edge in zip(reader.box.shape, block, strict=True))
        """Blocks along (z, y, x)."""
        self._empty: set[int] = set()

    def find(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a random labelled voxel (z, y, x) of a random block that has one, or None if none was found."""
        for number in generator.integers(math.prod(self.counts), size=FOREGROUND_TRIES).tolist():
            if number in self._empty:
                continue
            box = self.box_of(number)
            labelled = self.reader.read_label(box, within=self.reader.box) > 0
            found = np.flatnonzero(labelled)
            if found.size:
                offset = np.unravel_index(int(found[int(generator.integers(found.size))]), labelled.shape)
                return tuple(first + int(step) for first, step in zip(box.start, offset, strict=True))
            if len(self._empty) < REMEMBERED_BLOCKS:
                self._empty.add(number)
        return None

    def box_of(self, number: int) -> Box:
        """Return the voxels of a block."""
        steps = map(int, np.unravel_index(number, self.counts))
        return Box.of_ranges(
            (first + step * edge, last if step == count - 1 else first + (step + 1) * edge)
            for step, (first, last), edge, count in zip(
                steps, self.reader.box.ranges, self.block, self.counts, strict=True
            )
        )


class Finder(Protocol):
    """What finds the voxels of a volume that patches are centred on."""

    reader: PairReader

    def find(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a voxel (z, y, x), or None if none was found."""


def choose_box(finder: Finder, recipe: TrainingSpec, generator: np.random.Generator) -> Box:
    """Return where a patch lies: anywhere or around foreground, and with as much of it as the recipe asks for."""
    reader = finder.reader
    for _ in range(MINIMUM_TRIES):
        box = _random_box(reader.box, recipe.patch_size, generator)
        if generator.random() < recipe.foreground_probability:
            centre = finder.find(generator)
            box = box if centre is None else _centred_box(reader.box, centre, recipe.patch_size)
        if recipe.foreground_minimum == 0:
            break
        foreground = np.count_nonzero(reader.read_label(box, within=reader.box) > 0)
        if foreground >= recipe.foreground_minimum * math.prod(recipe.patch_size):
            break
    return box


def share_of(reader: PairReader) -> float:
    """Return how often a volume is drawn from, relative to the others: its weight, or its network voxels."""
    return float(reader.box.voxels) if reader.pair.weight is None else reader.pair.weight


def _random_box(region: Box, size: tuple[int, ...], generator: np.random.Generator) -> Box:
    starts = [
        int(generator.integers(first, max(last - edge, first) + 1))
        for (first, last), edge in zip(region.ranges, size, strict=True)
    ]
    return Box.of_shape(size, start=starts)


def _centred_box(region: Box, centre: tuple[int, ...], size: tuple[int, ...]) -> Box:
    starts = [
        min(max(middle - edge // 2, first), max(last - edge, first))
        for (first, last), middle, edge in zip(region.ranges, centre, size, strict=True)
    ]
    return Box.of_shape(size, start=starts)


def grid_boxes(region: Box, size: tuple[int, ...], whole: Box) -> list[tuple[Box, Box]]:
    """Return patches of `size` that cover `region`, each with the part of the region that it alone is scored on."""
    axes = []
    for (first, last), edge, (_, length) in zip(region.ranges, size, whole.ranges, strict=True):
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
        (Box.of_ranges(patch for patch, _ in tiles), Box.of_ranges(scored for _, scored in tiles))
        for tiles in itertools.product(*axes)
    ]
