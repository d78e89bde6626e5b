"""A box of voxels cut into blocks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from connectomics_zoo.volumes.box import Box

Edges = tuple[int, int, int]
"""Edges (z, y, x) in voxels."""


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of a box, numbered in the order of their first voxels; those at its end may be smaller."""

    box: Box
    """What is cut, in voxels of the volume."""
    edges: Edges
    """Edges of a block."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along z, y and x."""
        z, y, x = (-(-size // edge) for size, edge in zip(self.box.shape, self.edges, strict=True))
        return z, y, x

    def __len__(self) -> int:
        """How many blocks there are."""
        return math.prod(self.counts)

    def position(self, index: int) -> tuple[int, int, int]:
        """Return where a block is, counted in blocks (z, y, x)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        _, rows, columns = self.counts
        return index // (rows * columns), index // columns % rows, index % columns

    def box_of(self, index: int) -> Box:
        """Return the voxels of a block."""
        places = zip(self.box.start, self.position(index), self.edges, strict=True)
        start = [first + at * edge for first, at, edge in places]
        return Box.of_shape(self.edges, start=start).intersection(self.box)

    def following(self, index: int, axis: int) -> int | None:
        """Return the block behind the last face of a block along an axis (0 is z), None where the box ends."""
        position = self.position(index)
        if position[axis] + 1 == self.counts[axis]:
            return None
        return index + math.prod(self.counts[axis + 1 :])

    def touching(self, box: Box) -> list[int]:
        """Return the blocks that have a voxel of `box`."""
        inside = box.intersection(self.box).relative_to(self.box.start)
        if inside.voxels == 0:
            return []
        pairs = zip(inside.ranges, self.edges, strict=True)
        spans = [range(first // edge, (stop - 1) // edge + 1) for (first, stop), edge in pairs]
        _, rows, columns = self.counts
        return [(z * rows + y) * columns + x for z, y, x in itertools.product(*spans)]
