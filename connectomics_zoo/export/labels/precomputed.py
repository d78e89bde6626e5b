"""Writes labels in Neuroglancer's precomputed format: scales, meshes, skeletons and what is known of the objects.

https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.export.labels.pieces import Piece
from connectomics_zoo.export.labels.simplify import Mesh
from connectomics_zoo.export.labels.source import Source
from connectomics_zoo.files.atomic import output_errors
from connectomics_zoo.volumes import Box, StoredPrediction, VoxelSize
from connectomics_zoo.volumes.multiscale import SMALLEST, next_step
from connectomics_zoo.volumes.precomputed import SAID_BY
from connectomics_zoo.volumes.prediction import to_attributes
from connectomics_zoo.volumes.resample import downsample_labels
from connectomics_zoo.volumes.uri import kvstore_of, store_context
from connectomics_zoo.volumes.zarr_writing import store_errors

MESHES, SKELETONS, PROPERTIES = "mesh", "skeletons", "properties"
"""Folders in the volume."""

_CHUNKS_OF_BLOCK = 2
"""Chunks along the edges of what is made of a coarser level at a time."""

_Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Level:
    """A level of detail; its voxels lie on the grid of the world, so that all levels do."""

    voxel_size_nm: VoxelSize
    """Edge lengths of its voxels (z, y, x)."""
    start: _Triple
    """Its first voxel (z, y, x), counted from the origin of the world."""
    stop: _Triple
    """One past its last."""
    step: _Triple
    """How many voxels of the level before one of its own covers (z, y, x)."""

    @property
    def shape(self) -> _Triple:
        """Its voxels (z, y, x)."""
        z, y, x = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def key(self) -> str:
        """The name of its folder."""
        return "_".join(f"{edge:.10g}" for edge in reversed(self.voxel_size_nm))


def levels_of(source: Source) -> tuple[Level, ...]:
    """Return the levels of labels, the finest first: until no edge is longer than `SMALLEST`."""
    stop = [first + size for first, size in zip(source.offset, source.shape, strict=True)]
    levels = [Level(source.voxel_size_nm, source.offset, _triple(stop), (1, 1, 1))]
    while max(levels[-1].shape) > SMALLEST:
        fine = levels[-1]
        step = next_step(fine.shape, fine.voxel_size_nm)
        z_nm, y_nm, x_nm = (edge * times for edge, times in zip(fine.voxel_size_nm, step, strict=True))
        start = _triple(first // times for first, times in zip(fine.start, step, strict=True))
        end = _triple(-(-last // times) for last, times in zip(fine.stop, step, strict=True))
        levels.append(Level((z_nm, y_nm, x_nm), start, end, step))
    return tuple(levels)


@dataclass(frozen=True)
class PrecomputedVolume:
    """A precomputed volume that is being written; it can be pickled."""

    folder: Path
    """Where it is."""
    levels: tuple[Level, ...]
    """Its levels, the finest first."""
    dtype: str
    """`uint32` or `uint64`."""
    chunks: Edges
    """Edges (z, y, x) of what is a file."""

    def create(self, parts: Iterable[str], stored: StoredPrediction) -> None:
        """Write what it is, how it came to be, and which of meshes, skeletons and properties there are.

        Raises:
            OutputError: it cannot be written.
        """
        scales = [
            {
                "key": level.key,
                "size": _backwards(level.shape),
                "resolution": _backwards(level.voxel_size_nm),
                "voxel_offset": _backwards(level.start),
                "chunk_sizes": [_backwards(self.chunks)],
                "encoding": "compressed_segmentation",
                "compressed_segmentation_block_size": [8, 8, 8],
            }
            for level in self.levels
        ]
        names = {MESHES: "mesh", SKELETONS: "skeletons", PROPERTIES: "segment_properties"}
        info = {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation",
            "data_type": self.dtype,
            "num_channels": 1,
            "scales": scales,
            **{names[part]: part for part in parts},
            SAID_BY: to_attributes(stored),
        }
        self._write_json("info", info)

    def write(self, level: int, box: Box, labels: NDArray[Any]) -> None:
        """Write labels (Z, Y, X) at a box of a level, in voxels from its first: whole chunks.

        Raises:
            OutputError: the disk does not take it.
        """
        store = self._open(level)
        with store_errors(self.folder):
            store[tuple(_global(box, self.levels[level]).slices[::-1])].write(labels.transpose()).result()

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """Return the labels (Z, Y, X) at a box of a level, in voxels from the origin of the world."""
        store = self._open(level)
        with store_errors(self.folder):
            values: NDArray[Any] = np.asarray(store[tuple(box.slices[::-1])].read().result()).transpose()
        return values

    def _open(self, level: int) -> Any:
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": kvstore_of(self.folder),
            "scale_metadata": {"key": self.levels[level].key},
        }
        with store_errors(self.folder):
            return tensorstore.open(spec, open=True, context=store_context()).result()[..., 0]

    def grid(self, level: int) -> BlockGrid:
        """Return the blocks in which a coarser level is made."""
        z, y, x = (edge * _CHUNKS_OF_BLOCK for edge in self.chunks)
        return BlockGrid(Box.of_shape(self.levels[level].shape), (z, y, x))

    def write_mesh(self, one: int, parts: Sequence[Mesh], source: Source) -> None:
        """Write the mesh of an object, in files of so many parts.

        Raises:
            OutputError: the disk does not take it.
        """
        folder = self.folder / MESHES
        names = [f"{one}.{number}" for number in range(len(parts))]
        for name, mesh in zip(names, parts, strict=True):
            points = source.to_nm(mesh.vertices / np.array(source.voxel_size_nm))
            content = np.uint32(len(points)).tobytes() + points.astype("<f4").tobytes()
            self._write(folder / name, content + mesh.faces.astype("<u4").tobytes())
        self._write_json(f"{MESHES}/{one}:0", {"fragments": names})

    def write_skeleton(self, one: int, skeleton: Piece) -> None:
        """Write the skeleton of an object.

        Raises:
            OutputError: the disk does not take it.
        """
        counts = np.array([len(skeleton.points), len(skeleton.links)], "<u4").tobytes()
        arrays = (skeleton.points.astype("<f4"), skeleton.links.astype("<u4"), skeleton.extra.astype("<f4"))
        self._write(self.folder / SKELETONS / str(one), counts + b"".join(array.tobytes() for array in arrays))

    def describe(self, part: str) -> None:
        """Write what a folder of meshes or skeletons holds.

        Raises:
            OutputError: the disk does not take it.
        """
        infos: dict[str, dict[str, Any]] = {
            MESHES: {"@type": "neuroglancer_legacy_mesh"},
            SKELETONS: {
                "@type": "neuroglancer_skeletons",
                "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
                "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
            },
        }
        self._write_json(f"{part}/info", infos[part])

    def write_properties(self, ids: NDArray[np.uint64], names: Mapping[int, str], numbers: Mapping[str, Any]) -> None:
        """Write what objects are called, and what has been measured of them.

        Raises:
            OutputError: the disk does not take it.
        """
        properties: list[dict[str, Any]] = []
        if names:
            labels = [names.get(int(one), str(one)) for one in ids]
            properties.append({"id": "label", "type": "label", "values": labels})
        for name, values in numbers.items():
            is_whole = values.dtype.kind in "iu" and values.max(initial=0) < 2**32
            kind = "uint32" if is_whole else "float32"  # the format has no wider ones
            listed = values.astype(kind).tolist()
            properties.append({"id": name, "type": "number", "data_type": kind, "values": listed})
        inline = {"ids": [str(one) for one in ids], "properties": properties}
        document = {"@type": "neuroglancer_segment_properties", "inline": inline}
        self._write_json(f"{PROPERTIES}/info", document)

    def write_table(self, name: str, text: str) -> None:
        """Write a table.

        Raises:
            OutputError: the disk does not take it.
        """
        self._write(self.folder / name, text.encode())

    def _write_json(self, name: str, document: Mapping[str, Any]) -> None:
        self._write(self.folder / name, json.dumps(document).encode())

    def _write(self, path: Path, content: bytes) -> None:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@dataclass(frozen=True)
class VoxelStage:
    """Writes the labels of a block; it can be pickled."""

    source: Source
    grid: BlockGrid
    volume: PrecomputedVolume

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write one block."""
        box = self.grid.box_of(index)
        self.volume.write(0, box, self.source.read(box))


@dataclass(frozen=True)
class LevelStage:
    """Makes blocks of a coarser level; it can be pickled."""

    volume: PrecomputedVolume
    level: int

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Make one block: the most frequent label each, of equally frequent ones the smallest."""
        fine, own = self.volume.levels[self.level - 1 : self.level + 1]
        box = self.volume.grid(self.level).box_of(index)
        covered = _global(box, own).scaled(own.step)
        there = covered.intersection(Box(fine.start, fine.stop))
        labels = self.volume.read(self.level - 1, there)
        # A step is 1 or 2: where one voxel of two is missing, the other one counts twice, and the majority stays.
        missing = [first - begin for first, begin in zip(there.start, covered.start, strict=True)]
        labels = np.pad(labels, [(count, 0) for count in missing], mode="edge")
        self.volume.write(self.level, box, downsample_labels(labels, own.step))


def _global(box: Box, level: Level) -> Box:
    """Return a box of a level, in voxels from its first, in those from the origin of the world."""
    return box.moved(level.start)


def _backwards(numbers: Iterable[Any]) -> list[Any]:
    """Return numbers (z, y, x) as (x, y, z)."""
    return list(numbers)[::-1]


def _triple(numbers: Iterable[int]) -> _Triple:
    z, y, x = numbers
    return z, y, x
