"""Where patches lie: at random and around what is labelled in training, in a grid in validation."""

from __future__ import annotations

import itertools
import math

import numpy as np

from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.train.annotated import AnnotatedBlocks
from connectomics_zoo.train.balance import ClassSearch, random_voxel
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.truth import Truth

FOREGROUND_TRIES = 256
"""Blocks (of half a patch's edges) drawn in search of a labelled voxel before a patch may lie anywhere."""

MINIMUM_TRIES = 50
"""Patches drawn in search of one with `foreground_minimum`, of which the last may have less."""

REMEMBERED_BLOCKS = 2**20
"""Blocks without labels that are remembered for each volume."""


class ForegroundFinder:
    """Finds labelled and annotated voxels of a region block by block; no block without labels is read twice.

    What it remembers saves reading, and changes no result: that follows from the generator alone.

    Args:
        reader: the volume.
        block: edges (z, y, x) of a block in network voxels; the last one along an axis may be larger.
        annotated: the blocks to draw from; None is any, where annotation is dense.
        classes: finds a class that is drawn first instead of any label; None where classes are not balanced.
    """

    def __init__(
        self,
        reader: PairReader,
        *,
        block: tuple[int, ...],
        annotated: AnnotatedBlocks | None = None,
        classes: ClassSearch | None = None,
    ) -> None:
        self.reader = reader
        self.classes = classes
        self.block = block
        self.annotated = annotated
        self.counts = tuple(max(1, length // edge) for length, edge in zip(reader.box.shape, block, strict=True))
        """Blocks along (z, y, x)."""
        self._empty: set[int] = set()

    def find(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a random labelled voxel (z, y, x) of a random block that has one, or None if none was found."""
        if self.classes is not None:
            return self.classes.find(generator, self.box_of, blocks=self.blocks)
        for number in self._draw(generator):
            if number in self._empty:
                continue
            box = self.box_of(number)
            found = random_voxel(self.reader.read_label(box, within=self.reader.box) > 0, box, generator)
            if found is not None:
                return found
            if len(self._empty) < REMEMBERED_BLOCKS:
                self._empty.add(number)
        return None

    def find_annotated(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a random annotated voxel (z, y, x), or None if none was found."""
        for number in self._draw(generator):
            box = self.box_of(number)
            if self.annotated is not None and self.annotated.is_full(number):
                return tuple(int(generator.integers(first, stop)) for first, stop in box.ranges)
            found = random_voxel(self.reader.read_truth(box, within=self.reader.box).anywhere, box, generator)
            if found is not None:
                return found
        return None

    def _draw(self, generator: np.random.Generator) -> list[int]:
        """Return the numbers of random blocks."""
        if self.annotated is not None:
            return self.annotated.draw(generator, FOREGROUND_TRIES)
        numbers: list[int] = generator.integers(math.prod(self.counts), size=FOREGROUND_TRIES).tolist()
        return numbers

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return math.prod(self.counts) if self.annotated is None else len(self.annotated.counts)

    def box_of(self, number: int) -> Box:
        """Return the voxels of a block."""
        if self.annotated is not None:
            return self.annotated.box(number)
        steps = map(int, np.unravel_index(number, self.counts))
        return Box.of_ranges(
            (first + step * edge, last if step == count - 1 else first + (step + 1) * edge)
            for step, (first, last), edge, count in zip(
                steps, self.reader.box.ranges, self.block, self.counts, strict=True
            )
        )


def choose_patch(
    finder: ForegroundFinder, recipe: TrainingSpec, generator: np.random.Generator, *, size: tuple[int, ...]
) -> tuple[Box, Truth]:
    """Return where a patch of `size` lies, and its labels: anywhere or around foreground, as the recipe asks for.

    Something is annotated in every patch, wherever there is any. Where annotation is sparse, a patch that may lie
    anywhere lies around a random annotated voxel, which may be anywhere in it.
    """
    reader = finder.reader
    for _ in range(MINIMUM_TRIES):
        box = _any_box(finder, size, generator)
        if generator.random() < recipe.foreground_probability:
            centre = finder.find(generator)
            box = box if centre is None else _centred_box(reader.box, centre, size)
        truth = reader.read_truth(box, within=reader.box)
        if truth.anywhere.any() and _has_foreground(truth, recipe, is_sparse=finder.annotated is not None):
            return box, truth
    if not truth.anywhere.any():
        voxel = finder.find_annotated(generator)
        if voxel is not None:
            box = _box_with(reader.box, voxel, size, generator)
            truth = reader.read_truth(box, within=reader.box)
    return box, truth


def _any_box(finder: ForegroundFinder, size: tuple[int, ...], generator: np.random.Generator) -> Box:
    voxel = None if finder.annotated is None else finder.find_annotated(generator)
    if voxel is None:
        return _random_box(finder.reader.box, size, generator)
    return _box_with(finder.reader.box, voxel, size, generator)


def _has_foreground(truth: Truth, recipe: TrainingSpec, *, is_sparse: bool) -> bool:
    """Whether as much of a patch is foreground as the recipe asks for; of a sparse one, of what is annotated."""
    if recipe.foreground_minimum == 0:
        return True
    of = np.count_nonzero(truth.anywhere) if is_sparse else truth.largest.size
    return bool(np.count_nonzero(truth.largest > 0) >= recipe.foreground_minimum * of)


def share_of(finder: ForegroundFinder) -> float:
    """Return how often a volume is drawn from, relative to the others: its weight, or its network voxels.

    Where annotation is sparse, the annotated ones.
    """
    if finder.reader.pair.weight is not None:
        return finder.reader.pair.weight
    return float(finder.reader.box.voxels if finder.annotated is None else finder.annotated.total)


def _random_box(region: Box, size: tuple[int, ...], generator: np.random.Generator) -> Box:
    starts = [
        int(generator.integers(first, max(last - edge, first) + 1))
        for (first, last), edge in zip(region.ranges, size, strict=True)
    ]
    return Box.of_shape(size, start=starts)


def _box_with(region: Box, voxel: tuple[int, ...], size: tuple[int, ...], generator: np.random.Generator) -> Box:
    """Return a random box that holds `voxel`, inside `region` where it fits."""
    starts = [
        min(max(place - int(generator.integers(edge)), first), max(last - edge, first))
        for (first, last), place, edge in zip(region.ranges, voxel, size, strict=True)
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
