"""What is done with each block: fragments, their edges, and objects in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.edges import Edges, attractive_edges, merge_edges, repulsive_edges
from connectomics_zoo.decode.fragments import as_ids, as_nodes, find_fragments, grown
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
        self.files.save_column(f"voxels/{index}.npy", np.bincount(labels.ravel())[1:])


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
    voxels, first = read_columns(files, "voxels")
    attractive, repulsive = (_read_edges(files, prefix, first=first, decode=decode) for prefix in ("", "repulsive_"))
    assert attractive is not None
    groups = group_fragments(attractive, repulsive, nodes=len(voxels), decode=decode)
    assert decode.min_size is not None
    objects, count = number_objects(groups, np.concatenate([[0], voxels]), minimum=decode.min_size)
    blocks = np.repeat(np.arange(len(files.grid)), np.diff(first))
    numbers = np.arange(1, len(voxels) + 1) - first[blocks]
    files.save_column("table/fragment.npy", numbers.astype(np.uint64) + (blocks.astype(np.uint64) << np.uint64(32)))
    files.save_column("table/object.npy", objects[1:])
    files.save_column("table/voxels.npy", voxels)
    files.save_column("table/first.npy", first)
    return count


def read_columns(files: ObjectFiles, folder: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the column that every block has in `folder`, one after the other, and where that of each block begins."""
    parts = [np.asarray(files.load_column(f"{folder}/{index}.npy")) for index in range(len(files.grid))]
    return np.concatenate(parts), np.cumsum([0, *(len(part) for part in parts)])


def _read_edges(files: ObjectFiles, prefix: str, *, first: NDArray[np.int64], decode: DecodeSpec) -> Edges | None:
    """Return the edges of all blocks, between nodes."""
    if prefix and decode.method != "mutex":
        return None
    merged = merge_edges(
        [Edges.of_columns(files.load(f"edges/{index}.npz"), prefix) for index in range(len(files.grid))]
    )
    nodes = as_nodes(merged.pairs, first).astype(np.uint64)
    return Edges(nodes, merged.count, merged.mean, merged.minimum, merged.maximum)


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
        self.write(index, objects[(ids & np.uint64(2**32 - 1)).astype(np.int64)])
