"""Fragments: what is surely one object, found in a block alone, with ids that no other block has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.channels import Channels, joined_voxels
from connectomics_zoo.decode.methods import agglomerated, keep_large, mutex, unite
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.volumes.box import Box

ReadChannels = Callable[[Box], Channels]
"""Reads a box, of which no voxel lies outside of what is decoded."""

Steps = tuple[int, int, int]
"""Voxels along (z, y, x)."""

CONTEXT = 16
"""Voxels around a block that fragments of `mutex` and `agglomeration` are found with, and the longest affinity more."""

SURE = 0.75
"""Fragments of `agglomeration` are merged in their block while 1 - their mean affinity is below this share of what the
threshold allows: the rest sees all blocks. It takes a tenth of the fragments and edges that none would."""

_NUMBER_BITS = 32


def as_ids(labels: NDArray[Any], block: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return labels 1..N of a block as ids that no other block has, 0 for background.

    The number of the block is in the upper 32 bits, the label in the lower ones.
    """
    ids = labels.astype(np.uint64)
    ids += (labels != 0) * (np.asarray(block, np.uint64) << np.uint64(_NUMBER_BITS))
    return ids


def block_of(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the number of the block that each id is of."""
    return np.asarray(ids >> np.uint64(_NUMBER_BITS)).astype(np.int64)


def number_of(ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the label 1..N that each id is of in its block, 0 for background."""
    return np.asarray(ids & np.uint64((1 << _NUMBER_BITS) - 1)).astype(np.int64)


def as_nodes(ids: NDArray[np.uint64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each id among all: 1..N, 0 for background.

    Args:
        ids: what `as_ids` gives.
        first: for each block, how many fragments the blocks before have.
    """
    numbers = number_of(ids)
    nodes: NDArray[np.int64] = np.where(numbers == 0, 0, numbers + first[block_of(ids)])
    return nodes


def halo(decode: DecodeSpec, *, reach: Steps) -> Steps:
    """Return how far around a block its fragments are looked for.

    Args:
        decode: the method.
        reach: how far the longest affinity reaches.
    """
    more = CONTEXT if decode.method in ("mutex", "agglomeration") else 0
    z, y, x = (step + more for step in reach)
    return z, y, x


def grown(box: Box, by: Steps, *, within: Box) -> Box:
    """Return `box`, larger on every side, as far as that is inside of `within`."""
    pairs = zip(box.ranges, by, strict=True)
    return Box.of_ranges((first - step, stop + step) for (first, stop), step in pairs).intersection(within)


def find_fragments(
    read: ReadChannels, box: Box, *, decode: DecodeSpec, reach: Steps, within: Box
) -> NDArray[np.uint32]:
    """Return the fragments in a block, labels 1..N of (Z, Y, X), 0 for background.

    Of `components`, they are the parts that are connected inside of the block, so that the whole ones are found where
    these are joined; the other two methods see more than the block, since what is around it changes the result. What
    is smaller than `min_size` and so far from other blocks that none of them can join it is background.

    Args:
        read: reads what is decoded.
        box: the block.
        decode: the method.
        reach: how far the longest affinity reaches.
        within: all that is decoded.
    """
    outer = grown(box, halo(decode, reach=reach), within=within)
    inside = box.relative_to(outer.start).slices
    channels = read(outer)
    if decode.method == "mutex":
        labels = mutex(channels, decode, start=outer.start)[inside]
    elif decode.method == "agglomeration":
        assert decode.threshold is not None
        return keep_large(agglomerated(channels, SURE * (1 - decode.threshold))[inside], minimum=1)
    else:
        assert decode.threshold is not None
        labels = unite(channels.crop(inside), threshold=decode.threshold)
        if channels.affinities is not None:
            # An affinity of another block can be all that makes a voxel foreground.
            labels[~joined_voxels(channels, threshold=decode.threshold)[inside]] = 0
    return _without_final(keep_large(labels, minimum=1), channels, box, within=within, decode=decode)


def _without_final(
    labels: NDArray[np.uint32], channels: Channels, box: Box, *, within: Box, decode: DecodeSpec
) -> NDArray[np.uint32]:
    """Return labels 1..N without those that are too small and cannot grow."""
    assert decode.min_size is not None
    keep = np.bincount(labels.ravel()) >= decode.min_size
    steps = [(1, 1, 1), *(offset for _, offset in channels.attractions)]
    for axis in range(3):
        reach = max(abs(step[axis]) for step in steps)
        if box.start[axis] > within.start[axis]:
            keep[np.unique(np.take(labels, range(min(reach, labels.shape[axis])), axis))] = True
        if box.stop[axis] < within.stop[axis]:
            last = labels.shape[axis]
            keep[np.unique(np.take(labels, range(max(0, last - reach), last), axis))] = True
    keep[0] = False
    numbers = np.cumsum(keep, dtype=np.uint32) * keep
    return np.asarray(numbers[labels], np.uint32)
