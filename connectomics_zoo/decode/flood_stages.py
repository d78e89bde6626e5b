"""What the watershed does with each block: parts of the foreground and seeds, which of them touch, and the floods.

A part that lies in one block is flooded there, with others at once; one that crosses blocks in the block that has its
first voxel, alone or with others. The result lies in pieces, one for each block that it reaches into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.flood import Parts, batches, boxes_around, flood, join_parts, levels_of
from connectomics_zoo.decode.fragments import as_ids, as_nodes, grown, number_of
from connectomics_zoo.decode.graph import unite_pairs
from connectomics_zoo.decode.memory import refuse_too_large
from connectomics_zoo.decode.methods import Flooding, flooding, keep_large
from connectomics_zoo.decode.object_files import ObjectFiles
from connectomics_zoo.decode.relabel import number_groups, number_objects
from connectomics_zoo.decode.source import Source
from connectomics_zoo.decode.stages import read_columns
from connectomics_zoo.errors import LimitError
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.volumes import Box

FOREGROUND = "foreground.zarr"
SEEDS = "seeds.zarr"

MOST_SEEDS = int(np.iinfo(np.uint32).max)
"""The watershed takes markers in uint32."""


def _read_flooding(source: Source, box: Box, *, within: Box) -> Flooding:
    """Return what the watershed reads in a box."""
    outer = grown(box, source.reach, within=within)
    inside = box.relative_to(outer.start).slices
    read = flooding(source.read(outer), source.task.decode)
    return Flooding(read.foreground[inside], read.seeds[inside], read.height[inside])


@dataclass(frozen=True)
class PartStage:
    """Finds the parts of the foreground and the seeds of a block."""

    source: Source
    files: ObjectFiles

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write them, the boxes around the parts, the sizes of the seeds, and the range of heights."""
        from bioimage_cpp.segmentation import label

        box = self.files.grid.box_of(index)
        read = _read_flooding(self.source, box, within=self.files.grid.box)
        foreground = keep_large(label(read.foreground, connectivity=1), minimum=1)
        seeds = keep_large(label(read.seeds, connectivity=1), minimum=1)
        parts = boxes_around(foreground, start=box.start)
        self.files.write(FOREGROUND, index, as_ids(foreground, index))
        self.files.write(SEEDS, index, as_ids(seeds, index))
        self.files.save(
            f"parts/{index}.npz",
            start=parts.start,
            stop=parts.stop,
            seed_voxels=np.bincount(seeds.ravel())[1:],
            levels=np.array([levels_of(read) or ()]).reshape(-1, 2),
        )


@dataclass(frozen=True)
class FaceStage:
    """Finds which parts and which seeds of a block touch those of the blocks behind it."""

    files: ObjectFiles

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write the pairs."""
        grid = self.files.grid
        box = grid.box_of(index)
        found: dict[str, NDArray[np.uint64]] = {}
        for store, column in ((FOREGROUND, "parts"), (SEEDS, "seeds")):
            pairs = [np.zeros((0, 2), np.uint64)]
            for axis, name in enumerate("zyx"):
                if grid.following(index, axis) is None:
                    continue
                stop = box.stop[axis]
                both = self.files.read(store, box.replace(**{name: (stop - 1, stop + 1)}))
                touching = np.stack([np.take(both, side, axis).ravel() for side in (0, 1)], axis=1)
                pairs.append(np.unique(touching[touching.all(axis=1)], axis=0))
            found[column] = np.concatenate(pairs)
        self.files.save(f"faces/{index}.npz", **found)


def join_faces(files: ObjectFiles, source: Source) -> int:
    """Find out which parts and seeds of all blocks are one, write what floods need, and return the number of parts.

    Raises:
        LimitError: a part of the foreground that crosses blocks does not fit into the memory, or there are more seeds
            than uint32 can number.
    """
    decode = source.task.decode
    assert decode.min_seed is not None
    starts, first = read_columns(files, "parts", "start")
    stops, _ = read_columns(files, "parts", "stop")
    pairs, _ = read_columns(files, "faces", "parts")
    part_of, count = number_groups(unite_pairs(as_nodes(pairs, first), nodes=len(starts)))
    parts = join_parts(Parts(starts, stops), part_of[1:] - 1, count=count)
    if count:
        shape = parts.box(int(np.argmax((parts.stop - parts.start).prod(axis=1)))).shape
        refuse_too_large(source.task, shape=shape, stored=np.dtype(np.float32), location=source.location, what="part")
    seed_voxels, first_seed = read_columns(files, "parts", "seed_voxels")
    pairs, _ = read_columns(files, "faces", "seeds")
    seeds = unite_pairs(as_nodes(pairs, first_seed), nodes=len(seed_voxels))
    markers, found = number_objects(seeds, np.concatenate([[0], seed_voxels]), minimum=decode.min_seed)
    if found > MOST_SEEDS:
        raise LimitError(
            f"{source.location}: has {found} seeds, and the watershed floods at most {MOST_SEEDS}: give a higher "
            "min_seed, another --method, or decode a part (--region)."
        )
    levels, _ = read_columns(files, "parts", "levels")
    # Parts are numbered in the order of their first voxels, so that a block has the first voxels of consecutive ones.
    first_of_part = np.searchsorted(first, np.unique(part_of[1:], return_index=True)[1], side="right") - 1
    for name, values in {
        "first": first,
        "part": part_of[1:],
        "part_start": parts.start,
        "part_stop": parts.stop,
        "own": np.searchsorted(first_of_part, np.arange(len(files.grid) + 1)),
        "first_seed": first_seed,
        "marker": markers[1:],
        "levels": np.array([levels[:, 0].min(), levels[:, 1].max()]) if len(levels) else np.zeros(2),
    }.items():
        files.save_column(f"joined/{name}.npy", values)
    return count


@dataclass(frozen=True)
class FloodStage:
    """Floods the parts that begin in a block."""

    source: Source
    files: ObjectFiles

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write the pieces of the result, and how many voxels each marker has."""
        pieces: dict[str, NDArray[Any]] = {}
        targets, corners = list[int](), list[tuple[int, int, int]]()
        counts = [np.zeros((2, 0), np.int64)]
        for box, labels in self._floods(index):
            markers, voxels = np.unique(labels, return_counts=True)
            counts.append(np.stack([markers.astype(np.int64), voxels])[:, markers != 0])
            for target in self.files.grid.touching(box):
                own = box.intersection(self.files.grid.box_of(target))
                piece = labels[own.relative_to(box.start).slices]
                if piece.any():
                    pieces[f"piece{len(targets)}"] = piece
                    targets.append(target)
                    corners.append(own.start)
        self.files.save(
            f"floods/{index}.npz",
            target=np.array(targets, np.int64),
            corner=np.array(corners, np.int64).reshape(-1, 3),
            marker=np.concatenate(counts, axis=1)[0],
            voxels=np.concatenate(counts, axis=1)[1],
            **pieces,
        )

    def _floods(self, index: int) -> Iterator[tuple[Box, NDArray[np.uint32]]]:
        """Yield the labels of the parts that begin in a block, and where they lie."""
        grid = self.files.grid
        first, stop = (int(edge) for edge in self.files.load_column("joined/own.npy")[index : index + 2])
        own = slice(first, stop)
        parts = Parts(*(np.asarray(self.files.load_column(f"joined/part_{end}.npy")[own]) for end in ("start", "stop")))
        low, high = (float(level) for level in self.files.load_column("joined/levels.npy"))
        for box, members in batches(parts, block=grid.box_of(index)):
            height = _read_flooding(self.source, box, within=grid.box).height
            numbers = self._looked_up(FOREGROUND, box, "first", "part")
            mask = np.isin(numbers, np.array(members) + first + 1)
            markers = self._looked_up(SEEDS, box, "first_seed", "marker").astype(np.uint32)
            yield box, flood(height, markers, mask, (low, high))

    def _looked_up(self, store: str, box: Box, first: str, column: str) -> NDArray[Any]:
        """Return what a column of `joined` says of each voxel of a box, 0 for background."""
        places = self.files.load_column(f"joined/{first}.npy")
        values = self.files.load_column(f"joined/{column}.npy")
        result = np.zeros(box.shape, values.dtype)
        for block in self.files.grid.touching(box):
            part = box.intersection(self.files.grid.box_of(block))
            own = np.concatenate([np.zeros(1, values.dtype), values[places[block] : places[block + 1]]])
            numbers = number_of(self.files.read(store, part))
            result[part.relative_to(box.start).slices] = own[numbers]
        return result


def count_floods(files: ObjectFiles, *, decode: DecodeSpec) -> int:
    """Number the objects, write the table, and return how many there are."""
    assert decode.min_size is not None
    markers, _ = read_columns(files, "floods", "marker")
    counts, _ = read_columns(files, "floods", "voxels")
    total = len(files.load_column("joined/marker.npy"))
    voxels = np.bincount(markers, weights=counts, minlength=total + 1).astype(np.int64)
    objects, count = number_objects(np.arange(len(voxels)), voxels, minimum=decode.min_size)
    files.save_column("table/object.npy", objects)
    files.save_column("table/voxels.npy", voxels)
    pairs = [
        (target, index)
        for index in range(len(files.grid))
        for target in np.unique(files.load(f"floods/{index}.npz")["target"])
    ]
    files.save_column("joined/pieces.npy", np.array(sorted(pairs), np.int64).reshape(-1, 2))
    return count


@dataclass(frozen=True)
class ComposeStage:
    """Puts the pieces of a block together, as objects."""

    files: ObjectFiles
    write: Callable[[int, NDArray[Any]], None]
    """Takes the number of a block and its labels."""

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write them."""
        box = self.files.grid.box_of(index)
        markers = np.zeros(box.shape, np.uint32)
        pairs = self.files.load_column("joined/pieces.npy")
        for owner in pairs[np.searchsorted(pairs[:, 0], index) : np.searchsorted(pairs[:, 0], index + 1), 1]:
            file = self.files.load(f"floods/{owner}.npz")
            for number in np.flatnonzero(file["target"] == index):
                piece = file[f"piece{number}"]
                z, y, x = (int(first) for first in file["corner"][number])
                there = Box.of_shape(piece.shape, start=(z, y, x)).relative_to(box.start).slices
                markers[there] = np.where(piece != 0, piece, markers[there])
        self.write(index, self.files.load_column("table/object.npy")[markers])
