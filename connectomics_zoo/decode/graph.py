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


def group_fragments(attractive: Edges, repulsive: Edges, *, nodes: int, decode: DecodeSpec) -> Groups:
    """Return which of the nodes 0..`nodes` are one object.

    `components` joins where an affinity (or the foreground of both voxels) exceeds the threshold, `agglomeration`
    while the mean affinity does, and `mutex` takes the edges in the order of |mean - threshold|, as the mutex watershed
    does with voxels.

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
    if decode.method == "mutex":
        return _mutex(attractive, repulsive, nodes=nodes, threshold=decode.threshold)
    if not len(attractive):
        return np.arange(nodes + 1)
    graph = UndirectedGraph.from_unique_edges(nodes + 1, attractive.pairs)
    sizes = attractive.count.astype(np.float64)
    groups = GaspClusterPolicy(linkage="mean").optimize(graph, attractive.mean - decode.threshold, edge_sizes=sizes)
    return np.asarray(groups).astype(np.int64)


def _mutex(attractive: Edges, repulsive: Edges, *, nodes: int, threshold: float) -> Groups:
    """Return the groups of the mutex watershed of nodes."""
    from bioimage_cpp.graph import UndirectedGraph
    from bioimage_cpp.graph.mutex_watershed import mutex_watershed_clustering

    joins = attractive.mean > threshold
    forbidding = [attractive.select(~joins), repulsive.select(repulsive.mean < threshold)]
    if not joins.any():
        return np.arange(nodes + 1)
    joining = attractive.select(joins)
    groups = mutex_watershed_clustering(
        UndirectedGraph.from_unique_edges(nodes + 1, joining.pairs),
        joining.mean - threshold,
        np.concatenate([edges.pairs for edges in forbidding]),
        threshold - np.concatenate([edges.mean for edges in forbidding]),
    )
    return np.asarray(groups).astype(np.int64)
