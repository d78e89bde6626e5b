"""Candidate boxes of one size, and what is known of each: sums over its voxels, from one pass through the volumes.

The voxels are summed in cells, between the planes where any candidate begins or ends, so that a box is whole cells and
its sums come from a summed-area table. In memory are a tile of the volumes, and the sums of all cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.box import Box

TILE_EDGES = (32, 256, 256)
"""Voxels (z, y, x) that are read at a time, at most."""

Measure = Callable[[Box], NDArray[np.floating]]
"""From a box to measures (M, Z, Y, X) of its voxels."""


@dataclass(frozen=True)
class Candidates:
    """Boxes of one size, every half of it."""

    starts: NDArray[np.int64]
    """(N, 3): the first voxel (z, y, x) of each."""
    size: tuple[int, int, int]
    """Their edges."""

    def box(self, number: int) -> Box:
        """Return one of them."""
        return Box.of_shape(self.size, start=self.starts[number].tolist())

    def overlapping(self, box: Box) -> NDArray[np.bool_]:
        """Return which of them share a voxel with a box, (N,)."""
        ends = self.starts + self.size
        shared: NDArray[np.bool_] = np.all((self.starts < box.stop) & (ends > box.start), axis=1)
        return shared


def make_candidates(region: Box, size: Sequence[int]) -> Candidates:
    """Return the candidates in a region; an edge that is longer than the region is cut to it."""
    edges = [min(edge, length) for edge, length in zip(size, region.shape, strict=True)]
    firsts = [_firsts(*limits, edge) for limits, edge in zip(region.ranges, edges, strict=True)]
    starts = np.array(list(itertools.product(*firsts)), dtype=np.int64)
    return Candidates(starts, (edges[0], edges[1], edges[2]))


def _firsts(first: int, stop: int, edge: int) -> list[int]:
    """Return where boxes of an edge begin along an axis: every half of it, and the last ends where the axis does."""
    return sorted({*range(first, stop - edge + 1, max(1, edge // 2)), stop - edge})


def mean_measures(
    candidates: Candidates, measure: Measure, *, advance: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """Return the mean measures (N, M) of the candidates' voxels.

    Args:
        candidates: the boxes.
        measure: what is measured of voxels; it is asked for each voxel once, a tile at a time.
        advance: is told how many voxels are done, and of how many.
    """
    planes = [_planes(candidates.starts[:, axis], candidates.size[axis], most=TILE_EDGES[axis]) for axis in range(3)]
    total = math.prod(int(ends[-1] - ends[0]) for ends in planes)
    tiles = [_tiles(ends, most=TILE_EDGES[axis]) for axis, ends in enumerate(planes)]
    table: NDArray[np.float64] | None = None
    done = 0
    for (z, z_end), (y, y_end), (x, x_end) in itertools.product(*tiles):
        ends = [planes[0][z : z_end + 1], planes[1][y : y_end + 1], planes[2][x : x_end + 1]]
        box = Box.of_ranges((int(part[0]), int(part[-1])) for part in ends)
        sums = measure(box).astype(np.float64, copy=False)
        for axis, part in enumerate(ends):
            sums = np.add.reduceat(sums, part[:-1] - part[0], axis=axis + 1)
        if table is None:
            # One plane of zeros before the first cell, as a summed-area table has it.
            table = np.zeros((len(sums), *map(len, planes)))
        table[:, z + 1 : z_end + 1, y + 1 : y_end + 1, x + 1 : x_end + 1] = sums
        done += box.voxels
        advance(done, total)
    assert table is not None
    for axis in (1, 2, 3):
        table.cumsum(axis=axis, out=table)
    means: NDArray[np.float64] = _box_sums(table, candidates, planes).T / math.prod(candidates.size)
    return means


def _box_sums(
    table: NDArray[np.float64], candidates: Candidates, planes: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return the sums (M, N) of a summed-area table over the candidates, by inclusion and exclusion of corners."""
    stops = candidates.starts + candidates.size
    corners = [
        [np.searchsorted(planes[axis], ends[:, axis]) for axis in range(3)] for ends in (candidates.starts, stops)
    ]
    sums = np.zeros((len(table), len(candidates.starts)))
    for picks in itertools.product((0, 1), repeat=3):
        z, y, x = (corners[pick][axis] for axis, pick in enumerate(picks))
        sums += (-1) ** (3 - sum(picks)) * table[:, z, y, x]
    return sums


def _planes(starts: NDArray[np.int64], edge: int, *, most: int) -> NDArray[np.int64]:
    """Return where cells begin and end along an axis: where candidates do, and in between where those are far apart."""
    ends = np.unique(np.concatenate([starts, starts + edge])).tolist()
    firsts = [place for first, stop in itertools.pairwise(ends) for place in range(first, stop, most)]
    return np.array([*firsts, ends[-1]], dtype=np.int64)


def _tiles(planes: NDArray[np.int64], *, most: int) -> list[tuple[int, int]]:
    """Return the cells [first, stop) of each tile along an axis: as many as `most` voxels hold."""
    tiles, first = [], 0
    while first < len(planes) - 1:
        stop = max(first + 1, int(np.searchsorted(planes, planes[first] + most, side="right")) - 1)
        tiles.append((first, stop))
        first = stop
    return tiles
