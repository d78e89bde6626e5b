"""Which blocks of a pair are annotated, where few are: patches are drawn around these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.truth import Truth

PROBED_BLOCKS = 64
"""Blocks that are looked at to see whether annotation is dense."""

DENSE = 0.25
"""Fraction of them that hold annotation, from which on a block may be drawn anywhere."""

READ_VOXELS = 2**24
"""Network voxels that are read at a time where a whole volume is looked through."""


@dataclass(frozen=True)
class AnnotatedBlocks:
    """The blocks of a volume in which something is annotated."""

    starts: NDArray[np.int64]
    """(blocks, 3): the first network voxel (z, y, x) of each."""
    stops: NDArray[np.int64]
    """(blocks, 3): one past the last."""
    counts: NDArray[np.int64]
    """(blocks,): annotated voxels, of each at least one."""

    @property
    def total(self) -> int:
        """Annotated voxels in all of them."""
        return int(self.counts.sum())

    def draw(self, generator: np.random.Generator, size: int) -> list[int]:
        """Return the numbers of random blocks, each as often as it has annotated voxels."""
        if not len(self.counts):
            return []
        ends = self.counts.cumsum()
        numbers: list[int] = np.searchsorted(ends, generator.integers(ends[-1], size=size), side="right").tolist()
        return numbers

    def box(self, number: int) -> Box:
        """Return the block with this number."""
        return Box.of_ranges(zip(self.starts[number].tolist(), self.stops[number].tolist(), strict=True))

    def is_full(self, number: int) -> bool:
        """Whether all of the block with this number is annotated."""
        return self.box(number).voxels == int(self.counts[number])


def find_annotated(reader: PairReader, *, block: tuple[int, ...]) -> AnnotatedBlocks | None:
    """Return the annotated blocks of a volume, or None where annotation is dense and any block will do.

    Boxes that a spec states are known at once. A mask, and labels of which one means "not annotated", are looked
    through once, unless a few random blocks show that annotation is dense.

    Args:
        reader: the volume.
        block: edges (z, y, x) of a block in network voxels.
    """
    is_partial = reader.mask is not None or reader.data.unlabelled is not None
    if not is_partial:
        return None if reader.regions is None else _known_blocks(reader, block)
    if reader.regions is None and _is_dense(reader, block):
        return None
    rows = [row for part in reader.parts for row in _counted_blocks(reader, part, block)]
    table = np.array(rows, dtype=np.int64).reshape(-1, 7)
    return AnnotatedBlocks(table[:, :3], table[:, 3:6], table[:, 6])


def first_annotated(parts: Iterable[Box], read: Callable[[Box], Truth]) -> Box | None:
    """Return a box of `parts` in which `read` finds annotation, the first of a random order; None if there is none."""
    boxes = [box for part in parts for box in tiles(part, read_edges(part.shape, (1, 1, 1)))]
    order = np.random.default_rng(0).permutation(len(boxes)).tolist()
    return next((boxes[number] for number in order if read(boxes[number]).annotated.any()), None)


def _annotated(reader: PairReader, box: Box) -> NDArray[np.bool_]:
    return reader.read_truth(box, within=reader.box).anywhere


def _known_blocks(reader: PairReader, block: tuple[int, ...]) -> AnnotatedBlocks:
    boxes = [box for part in reader.parts for box in tiles(part, block)]
    return AnnotatedBlocks(
        np.array([box.start for box in boxes], dtype=np.int64),
        np.array([box.stop for box in boxes], dtype=np.int64),
        np.array([box.voxels for box in boxes], dtype=np.int64),
    )


def _is_dense(reader: PairReader, block: tuple[int, ...]) -> bool:
    counts = [-(-length // edge) for length, edge in zip(reader.box.shape, block, strict=True)]
    total = math.prod(counts)
    numbers = np.random.default_rng(0).choice(total, min(total, PROBED_BLOCKS), replace=False)
    corners = np.stack(np.unravel_index(numbers, counts), axis=1) * block + reader.box.start
    boxes = [Box.of_shape(block, start=corner).intersection(reader.box) for corner in corners.tolist()]
    return sum(map(bool, map(np.any, map(partial(_annotated, reader), boxes)))) >= DENSE * len(boxes)


def _counted_blocks(reader: PairReader, part: Box, block: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield first voxel, end and number of annotated voxels of each block of `part` that has any."""
    for box in tiles(part, read_edges(part.shape, block)):
        annotated = _annotated(reader, box)
        if not annotated.any():
            continue
        starts = [np.arange(0, length, edge) for length, edge in zip(box.shape, block, strict=True)]
        counts = annotated.astype(np.int64)
        for axis, firsts in enumerate(starts):
            counts = np.add.reduceat(counts, firsts, axis=axis)
        for place in np.argwhere(counts).tolist():
            first = tuple(low + step * edge for low, step, edge in zip(box.start, place, block, strict=True))
            one = Box.of_shape(block, start=first).intersection(box)
            yield (*one.start, *one.stop, int(counts[tuple(place)]))


def read_edges(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Return the edges (z, y, x) of what is read at a time: whole blocks, sections in full where they are small.

    Args:
        shape: of the whole.
        block: edges of a block.
    """
    edges, room = [1, 1, 1], READ_VOXELS
    for axis in (2, 1, 0):
        length, edge = shape[axis], block[axis]
        edges[axis] = max(edge, min(-(-length // edge), room // edge) * edge)
        room = max(1, room // edges[axis])
    return edges[0], edges[1], edges[2]


def tiles(part: Box, edges: tuple[int, ...]) -> Iterator[Box]:
    """Yield the boxes that `part` divides into, of `edges` (z, y, x) but at its end."""
    corners = (range(first, stop, edge) for (first, stop), edge in zip(part.ranges, edges, strict=True))
    for corner in itertools.product(*corners):
        yield Box.of_shape(edges, start=corner).intersection(part)
