"""What is done with each block: fragments, their edges, and objects in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.edges import NO_EDGES, Edges, attractive_edges, merge_edges, repulsive_edges
from connectomics_zoo.decode.fragments import as_ids, as_nodes, block_of, find_fragments, grown, number_of
from connectomics_zoo.decode.graph import group_fragments
from connectomics_zoo.decode.object_files import ObjectFiles
from connectomics_zoo.decode.relabel import number_objects
from connectomics_zoo.decode.source import Source
from connectomics_zoo.schema.task import DecodeSpec

FRAGMENTS = "fragments.zarr"


@dataclass(frozen=True)
class FragmentStage:
    """Finds the fragments of a block."""

    source: Source
    files: ObjectFiles

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write the fragments, and how many voxels each has."""
        grid = self.files.grid
        labels = find_fragments(
            self.source.read,
            grid.box_of(index),
            decode=self.source.task.decode,
            reach=self.source.reach,
            within=grid.box,
        )
        self.files.write(FRAGMENTS, index, as_ids(labels, index))
        self.files.save(f"fragments/{index}.npz", voxels=np.bincount(labels.ravel())[1:])


@dataclass(frozen=True)
class EdgeStage:
    """Finds the edges of a block, within it and to the blocks behind it."""

    source: Source
    files: ObjectFiles

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write the edges."""
        grid, decode = self.files.grid, self.source.task.decode
        box = grid.box_of(index)
        z, y, x = (max(1, step) for step in self.source.reach)
        outer = grown(box, (z, y, x), within=grid.box)
        fragments = self.files.read(FRAGMENTS, outer)
        channels = self.source.read(outer)
        own = box.relative_to(outer.start)
        columns = attractive_edges(fragments, channels, own, decode=decode).columns()
        if decode.method == "mutex":
            columns |= repulsive_edges(fragments, channels, own).columns("repulsive_")
        self.files.save(f"edges/{index}.npz", **columns)


def solve(files: ObjectFiles, *, decode: DecodeSpec) -> int:
    """Group the fragments of all blocks, write the table, and return how many objects there are."""
    assert decode.min_size is not None
    voxels, first = read_columns(files, "fragments", "voxels")
    attractive, repulsive = _read_graph(files, decode=decode)
    groups = group_fragments(
        _between_nodes(attractive, first), _between_nodes(repulsive, first), nodes=len(voxels), decode=decode
    )
    objects, count = number_objects(groups, np.concatenate([[0], voxels]), minimum=decode.min_size)
    blocks = np.repeat(np.arange(len(files.grid)), np.diff(first))
    files.save_column("table/fragment.npy", as_ids(np.arange(1, len(voxels) + 1) - first[blocks], blocks))
    files.save_column("table/object.npy", objects[1:])
    files.save_column("table/voxels.npy", voxels)
    files.save_column("table/first.npy", first)
    return count


def read_columns(files: ObjectFiles, folder: str, column: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a column that every block has in `folder`, one after the other, and where that of each block begins."""
    parts = [files.load(f"{folder}/{index}.npz")[column] for index in range(len(files.grid))]
    return np.concatenate(parts), np.cumsum([0, *(len(part) for part in parts)])


def _read_graph(files: ObjectFiles, *, decode: DecodeSpec) -> tuple[Edges, Edges]:
    """Return the edges that decide what is joined, and of `mutex` those that forbid it.

    `components` needs those that join, and `mutex` those between blocks, as within a block all is decided, and of those
    that repel the ones between fragments that another block may join.
    """
    assert decode.threshold is not None
    threshold = decode.threshold
    if decode.method == "components":
        return _read_edges(files, "", lambda edges: edges.maximum > threshold), NO_EDGES
    if decode.method == "agglomeration":
        return _read_edges(files, "", lambda edges: edges.count > 0), NO_EDGES
    attractive = _read_edges(files, "", lambda edges: block_of(edges.pairs[:, 0]) != block_of(edges.pairs[:, 1]))
    joined = np.unique(attractive.pairs[attractive.mean > threshold])
    return attractive, _read_edges(
        files, "repulsive_", lambda edges: np.asarray(np.isin(edges.pairs, joined).all(axis=1))
    )


def _read_edges(files: ObjectFiles, prefix: str, wanted: Callable[[Edges], NDArray[np.bool_]]) -> Edges:
    """Return the edges of all blocks that are wanted."""
    parts = []
    for index in range(len(files.grid)):
        edges = Edges.of_columns(files.load(f"edges/{index}.npz"), prefix)
        parts.append(edges.select(wanted(edges)))
    return merge_edges(parts)


def _between_nodes(edges: Edges, first: NDArray[np.int64]) -> Edges:
    """Return them between places among all fragments, which are in the same order as ids."""
    return dataclasses.replace(edges, pairs=as_nodes(edges.pairs, first).astype(np.uint64))


@dataclass(frozen=True)
class RelabelStage:
    """Writes the objects of a block."""

    files: ObjectFiles
    write: Callable[[int, NDArray[Any]], None]
    """Takes the number of a block and its labels."""

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write them."""
        first = self.files.load_column("table/first.npy")
        own = self.files.load_column("table/object.npy")[first[index] : first[index + 1]]
        objects = np.concatenate([np.zeros(1, own.dtype), own])
        ids = self.files.read(FRAGMENTS, self.files.grid.box_of(index))
        self.write(index, objects[number_of(ids)])
