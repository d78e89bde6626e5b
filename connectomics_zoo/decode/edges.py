"""Edges between fragments: which touch, and what the channels say of it, summed over blocks without losing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.channels import Channels
from connectomics_zoo.decode.methods import NEAREST
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.tasks.affinities import OffsetZYX
from connectomics_zoo.volumes.box import Box


@dataclass(frozen=True)
class Edges:
    """Pairs of fragments; all arrays have one value a pair."""

    pairs: NDArray[np.uint64]
    """(N, 2), the smaller id first, in the order of the first and then of the second, each pair once."""
    count: NDArray[np.int64]
    """Pairs of voxels that it is made of."""
    mean: NDArray[np.float64]
    """Of their values."""
    minimum: NDArray[np.float32]
    """The smallest."""
    maximum: NDArray[np.float32]
    """The largest."""

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    def select(self, which: NDArray[np.bool_]) -> Edges:
        """Return some of them."""
        return Edges(self.pairs[which], self.count[which], self.mean[which], self.minimum[which], self.maximum[which])

    def columns(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Return its columns by name, as they are saved."""
        named: dict[str, NDArray[Any]] = {"u": self.pairs[:, 0], "v": self.pairs[:, 1]}
        named |= {"count": self.count, "mean": self.mean, "minimum": self.minimum, "maximum": self.maximum}
        return {prefix + name: column for name, column in named.items()}

    @classmethod
    def of_columns(cls, columns: Any, prefix: str = "") -> Edges:
        """Return the edges whose `columns` these are."""
        u, v, *others = (columns[prefix + name] for name in ("u", "v", "count", "mean", "minimum", "maximum"))
        return cls(np.stack([u, v], axis=1), *others)


def attractive_edges(fragments: NDArray[np.uint64], channels: Channels, own: Box, *, decode: DecodeSpec) -> Edges:
    """Return the edges of a block: those whose first voxel (of an affinity, its source) lies in it.

    Their values are the attractive affinities, of `agglomeration` those of the nearest neighbours alone; or without
    affinities the mean of the two voxels' foreground.

    Args:
        fragments: ids of the block and of what is around it, as far as the longest affinity reaches, at least a voxel.
        channels: of the same voxels.
        own: the block, counted from the first of these voxels.
        decode: the method.
    """
    from bioimage_cpp.graph.distributed import block_edge_map_stats

    if channels.affinities is None:
        assert channels.foreground is not None
        pairs, stats = block_edge_map_stats(fragments, channels.foreground, own.start, own.shape, number_of_threads=1)
        return _edges(pairs, stats)
    wanted = [
        (values, offset)
        for values, offset in channels.attractions
        if decode.method != "agglomeration" or offset in NEAREST
    ]
    return _affinity_edges(fragments, wanted, own)


def repulsive_edges(fragments: NDArray[np.uint64], channels: Channels, own: Box) -> Edges:
    """Return the edges of the affinities that keep apart; arguments as those of `attractive_edges`."""
    assert channels.affinities is not None
    every = zip(channels.affinities, channels.offsets, channels.attractive, strict=True)
    return _affinity_edges(fragments, [(values, offset) for values, offset, joins in every if not joins], own)


def _affinity_edges(
    fragments: NDArray[np.uint64], affinities: Sequence[tuple[NDArray[np.float32], OffsetZYX]], own: Box
) -> Edges:
    from bioimage_cpp.graph.distributed import block_affinity_stats

    if not affinities:
        return _edges(np.zeros((0, 2), np.uint64), np.zeros((0, 5)))
    pairs, stats = block_affinity_stats(
        fragments,
        np.stack([values for values, _ in affinities]),
        [offset for _, offset in affinities],
        own.start,
        own.shape,
        number_of_threads=1,
    )
    return _edges(pairs, stats)


def _edges(pairs: NDArray[np.uint64], stats: NDArray[np.float64]) -> Edges:
    """Return the edges of (count, mean, M2, minimum, maximum), but for those to the background."""
    known = pairs[:, 0] != 0  # the smaller one
    count, mean, _, minimum, maximum = stats[known].T
    return Edges(
        pairs[known], count.astype(np.int64), mean.copy(), minimum.astype(np.float32), maximum.astype(np.float32)
    )


def merge_edges(parts: Sequence[Edges]) -> Edges:
    """Return the edges of several blocks as one: counts add up, means are those over all pairs of voxels."""
    pairs = np.concatenate([np.zeros((0, 2), np.uint64), *(part.pairs for part in parts)])
    if not len(pairs):
        return _edges(pairs, np.zeros((0, 5)))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    begins = np.flatnonzero(np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)]))
    count, mean, minimum, maximum = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("count", "mean", "minimum", "maximum")
    )
    total = np.add.reduceat(count, begins)
    return Edges(
        pairs[begins],
        total,
        np.add.reduceat(mean * count, begins) / total,
        np.minimum.reduceat(minimum, begins),
        np.maximum.reduceat(maximum, begins),
    )


NO_EDGES = merge_edges([])
"""None at all."""
