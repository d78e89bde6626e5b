"""How far along their skeletons neurons are right: the expected run length."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.scores.skeletons import Skeletons
from connectomics_zoo.volumes import Volume, VoxelSize
from connectomics_zoo.volumes.box import Box

_log = logging.getLogger(__name__)

_ROUNDING = 1e-3
"""Voxels by which a position may lie before a voxel and still be in it: SWC files round."""


def skeletons_in(skeletons: Skeletons, *, box: Box, voxel_size_nm: VoxelSize) -> tuple[Skeletons, NDArray[np.int64]]:
    """Return the part of the skeletons in `box`, and the voxel (z, y, x) of each of its nodes.

    An edge is in it where both its nodes are.

    Raises:
        VolumeError: there is no edge in it.
    """
    voxels = np.floor(skeletons.positions / np.array(voxel_size_nm) + _ROUNDING)
    inside = (voxels >= box.start).all(axis=1) & (voxels < box.stop).all(axis=1)
    part = skeletons.select(inside)
    if _lengths(part).sum() == 0:
        size = ",".join(f"{length:g}" for length in voxel_size_nm)
        raise VolumeError(
            f"no edge of the skeletons is inside {box} with voxels (z, y, x) of {size} nm: SWC files hold x y z in "
            "nm from the corner of the first voxel, convert them or correct the voxel size."
        )
    if not inside.all():
        _log.warning("%d of %d nodes of the skeletons are outside and do not count.", (~inside).sum(), inside.size)
    return part, voxels[inside].astype(np.int64)


def labels_at(
    volume: Volume, voxels: NDArray[np.int64], *, offset: tuple[int, int, int], block: tuple[int, int, int]
) -> NDArray[Any]:
    """Return the labels of `voxels`, of which those in a block (z, y, x) are read together.

    `offset` is the position of the volume's first voxel.
    """
    voxels = voxels - offset
    labels = np.zeros(len(voxels), dtype=volume.dtype)
    blocks = voxels // block
    order = np.lexsort(blocks.T)
    (starts,) = np.nonzero((blocks[order][1:] != blocks[order][:-1]).any(axis=1))
    for nodes in np.split(order, starts + 1):
        first, stop = voxels[nodes].min(axis=0), voxels[nodes].max(axis=0) + 1
        values = volume.read(Box.of_ranges(zip(first.tolist(), stop.tolist(), strict=True)))
        labels[nodes] = values.reshape(values.shape[-3:])[tuple((voxels[nodes] - first).T)]
    return labels


def run_length_scores(skeletons: Skeletons, labels: NDArray[Any], *, merge_nodes: int) -> dict[str, float]:
    """Return the expected run length of a segmentation that has `labels` at the nodes.

    It is the length of the piece of its neuron that is right around a random point of the skeletons: with r the
    length of all edges of a skeleton in one segment, the sum of r² over skeletons and segments, divided by the length
    of all skeletons (Januszewski et al. 2018; funlib.evaluate, run_length.py at d2852b3). Edges between two labels or
    at the label 0 are errors and in no piece, and so are those in a segment that has more than `merge_nodes` nodes of
    each of two skeletons or more: with 0, any node; with 5, 20 or 100 as BANIS reports it (metrics.py at 7e4834c,
    which lets a skeleton have its few nodes in a merger of others where it has no merger of its own). `nerl` is the
    fraction of what the truth itself would have, in which no skeleton is cut.
    """
    first, second = skeletons.edges.T
    neurons, lengths = skeletons.neurons, _lengths(skeletons)
    total = lengths.sum()
    perfect = float((np.bincount(neurons[first], weights=lengths) ** 2).sum() / total)
    values, segments = np.unique(labels, return_inverse=True)
    # Numbers the pairs of a neuron and a segment.
    pairs = neurons * len(values) + segments
    occurring, nodes = np.unique(pairs, return_counts=True)
    neurons_of = np.bincount(occurring[nodes > merge_nodes] % len(values), minlength=len(values))
    merges = (neurons_of > 1) & (values != 0)
    found = (labels[first] != 0) & (labels[second] != 0)
    together = found & (segments[first] == segments[second])
    merged = together & merges[segments[first]]
    right = together & ~merged
    _, runs = np.unique(pairs[first[right]], return_inverse=True)
    expected = float((np.bincount(runs, weights=lengths[right]) ** 2).sum() / total)
    return {
        "erl_nm": expected,
        "erl_of_truth_nm": perfect,
        "nerl": expected / perfect,
        "edges": len(lengths),
        "edges_split": int((found & ~together).sum()),
        "edges_merged": int(merged.sum()),
        "edges_omitted": int((~found).sum()),
        "segments_merging": int(merges.sum()),
    }


def _lengths(skeletons: Skeletons) -> NDArray[np.float64]:
    """Of each edge, in nm."""
    first, second = skeletons.positions[skeletons.edges[:, 0]], skeletons.positions[skeletons.edges[:, 1]]
    lengths: NDArray[np.float64] = np.linalg.norm(first - second, axis=1)
    return lengths
