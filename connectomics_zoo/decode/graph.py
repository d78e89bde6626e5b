"""The one step that sees all fragments: which of them are one object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.edges import Edges
from connectomics_zoo.schema.task import DecodeSpec

Groups = NDArray[np.int64]
"""For each node 0..N, with 0 for background, the number of its group; that of the background is one of its own."""


def unite_pairs(pairs: NDArray[Any], *, nodes: int) -> Groups:
    """Return the groups of nodes 0..`nodes` that are connected by pairs (N, 2)."""
    from bioimage_cpp.utils import UnionFind

    sets = UnionFind(nodes + 1)
    sets.merge(np.ascontiguousarray(pairs, dtype=np.uint64))
    return np.asarray(sets.element_labeling()).astype(np.int64)


def group_fragments(attractive: Edges, repulsive: Edges | None, *, nodes: int, decode: DecodeSpec) -> Groups:
    """Return which of the nodes 0..`nodes` are one object.

    `components` joins where an affinity (or the foreground of both voxels) exceeds the threshold, `agglomeration`
    while the mean affinity does, and `mutex` goes through the edges between blocks as the mutex watershed goes through
    voxels, by their mean.

    Args:
        attractive: edges between nodes.
        repulsive: of `mutex`, the edges of the affinities that keep apart.
        nodes: how many there are.
        decode: the method.
    """
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.agglomeration import GaspClusterPolicy

    assert decode.threshold is not None
    if decode.method == "components":
        return unite_pairs(attractive.pairs[attractive.maximum > decode.threshold], nodes=nodes)
    if not len(attractive):
        return np.arange(nodes + 1)
    graph = UndirectedGraph.from_unique_edges(nodes + 1, attractive.pairs)
    weights = attractive.mean - decode.threshold
    if decode.method == "agglomeration":
        policy = GaspClusterPolicy(linkage="mean")
        groups = policy.optimize(graph, weights, edge_sizes=attractive.count.astype(np.float64))
        return np.asarray(groups).astype(np.int64)
    raise NotImplementedError
