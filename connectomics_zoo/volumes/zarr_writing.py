"""Writes the arrays of a new Zarr store (format 3, with shards, an OME-NGFF 0.5 image), as one of many may.

What is not finished says so in its attributes, and `Volume` refuses it. Any number of processes may write, each into
shards of its own: a shard is written as a whole, and in the place of what was there at once.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore

from connectomics_zoo.errors import OutputError, ZooError, reason
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import VoxelSize
from connectomics_zoo.volumes.resample import Factors
from connectomics_zoo.volumes.store_files import reachable
from connectomics_zoo.volumes.uri import Place, kvstore_of, store_context
from connectomics_zoo.volumes.volume import UNFINISHED

_IMAGE_LABEL = "image-label"

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True)
class ArrayLayout:
    """What an array is, and how it is cut."""

    shape: tuple[int, ...]
    """(Z, Y, X), or (C, Z, Y, X)."""
    dtype: np.dtype[Any]
    """Its data type."""
    chunks: tuple[int, ...]
    """What is compressed, and read, as a whole."""
    shards: tuple[int, ...]
    """What is a file, and written as a whole: whole chunks."""
    voxel_size_nm: VoxelSize | None
    """Voxel size (z, y, x)."""
    attributes: Mapping[str, Any]
    """What it says of itself besides."""
    offset: Offset = (0.0, 0.0, 0.0)
    """Where the first voxel of the image lies (z, y, x), in nm, or in voxels where the voxel size is not known."""
    factors: Factors = (1, 1, 1)
    """Of a coarser level of the image, the voxels of the finest one that its own cover (z, y, x)."""


def create_array(place: Place, *, dataset: str | None, layout: ArrayLayout, finished: bool) -> None:
    """Create a store with the one array `dataset`/0, in place of what is there.

    Args:
        place: the store, a folder or a URI.
        dataset: the group that is the image, None for the store itself.
        layout: the array.
        finished: whether it counts as a volume from now on.

    Raises:
        OutputError: it cannot be written.
    """
    with store_errors(place):
        store = open_store(place)
        store.delete_range(tensorstore.KvStore.KeyRange()).result()
        groups = ["", *_ancestors(dataset)]
        for group in groups:
            _write_group(store, group, [layout] if group == groups[-1] else [])
        _create(_array_place(place, dataset), layout, finished=finished)


def add_level(place: Place, level: int, *, dataset: str | None, layout: ArrayLayout) -> None:
    """Create the array `dataset`/`level` of an image, which does not count as a volume yet, unless it is there.

    Raises:
        OutputError: it cannot be written.
    """
    folder = _array_place(place, dataset, level)
    with store_errors(place):
        if not _is_there(folder):
            _create(folder, layout, finished=False)


def finish_array(place: Place, *, dataset: str | None, levels: Sequence[ArrayLayout]) -> None:
    """Let the arrays `dataset`/0, 1, … of a store count as a volume of these levels; others of that kind are removed.

    Raises:
        OutputError: it cannot be written.
    """
    with store_errors(place):
        other = len(levels)
        while _is_there(_array_place(place, dataset, other)):
            _remove(_array_place(place, dataset, other))
            other += 1
        _write_group(open_store(place), _ancestors(dataset)[-1] if dataset else "", levels)
        for level in reversed(range(len(levels))):  # the finest one last, by which the image is known
            array = open_store(_array_place(place, dataset, level))
            document = json.loads(array.read("zarr.json").result().value)
            if document.get("attributes", {}).pop(UNFINISHED, False):
                _write_json(array, "zarr.json", document)


class ArrayWriter:
    """Writes into the array `dataset`/`level` of a store, and reads what is there.

    Raises:
        OutputError: the store is not there, or cannot be written.
    """

    def __init__(self, place: Place, *, dataset: str | None, level: int = 0) -> None:
        self._place = place
        with store_errors(place):
            spec = {"driver": "zarr3", "kvstore": kvstore_of(_array_place(place, dataset, level))}
            self._array = tensorstore.open(spec, open=True, write=True, read=True, context=store_context()).result()

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block at `index`.

        Raises:
            OutputError: the shards there are damaged, or the server does not give them.
        """
        try:
            with reachable(self._place):
                return np.asarray(self._array[index].read().result())
        except ZooError as error:
            raise OutputError(str(error)) from None
        except (RuntimeError, ValueError, OSError) as error:
            raise OutputError(
                f"{self._place}: cannot be read again ({_store_problem(error)}), begin anew with --overwrite."
            ) from None

    def write(self, index: tuple[slice, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` at `index`; whole shards, unless nobody else writes.

        Raises:
            OutputError: the disk or the server does not take it.
        """
        try:
            with store_errors(self._place):
                self._array[index].write(block).result()
        except OutputError:
            if not self._is_whole(index):
                raise
            # Of a shard at the end of the array, what is there is read first, and may have been damaged when the power
            # failed.
            with store_errors(self._place):
                self._remove_shards(index)
                self._array[index].write(block).result()

    def _is_whole(self, index: tuple[slice, ...]) -> bool:
        """Whether there is nothing else in the shards at `index`."""
        shards = self._array.chunk_layout.write_chunk.shape
        assert shards is not None
        return all(
            part.start % edge == 0 and (part.stop % edge == 0 or part.stop == size)
            for part, edge, size in zip(index, shards, self._array.shape, strict=True)
        )

    def _remove_shards(self, index: tuple[slice, ...]) -> None:
        store, shards = self._array.kvstore, self._array.chunk_layout.write_chunk.shape
        assert store is not None
        assert shards is not None
        spans = (range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(index, shards, strict=True))
        for place in itertools.product(*spans):
            store.write(f"c/{'/'.join(map(str, place))}", None).result()

    def close(self) -> None:
        """Nothing is held back between two writes."""


class ZarrSink(ArrayWriter):
    """A new store that one process writes."""

    def __init__(self, path: Path, *, dataset: str | None, **layout: Any) -> None:
        create_array(path, dataset=dataset, layout=ArrayLayout(**layout, shards=layout["chunks"]), finished=True)
        super().__init__(path, dataset=dataset)


def _codecs(layout: ArrayLayout) -> list[dict[str, Any]]:
    chunk = [_BYTES, {"name": "zstd", "configuration": {"level": 3, "checksum": False}}]
    if layout.shards == layout.chunks:
        return chunk
    index = [_BYTES, {"name": "crc32c"}]
    sharding = {"chunk_shape": list(layout.chunks), "codecs": chunk, "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": sharding}]


def _create(folder: Place, layout: ArrayLayout, *, finished: bool) -> None:
    spec = {
        "driver": "zarr3",
        "kvstore": kvstore_of(folder),
        "metadata": {
            "shape": list(layout.shape),
            "data_type": layout.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(layout.shards)}},
            "codecs": _codecs(layout),
            "fill_value": False if layout.dtype == bool else 0,
            "dimension_names": list("czyx"[-len(layout.shape) :]),
            "attributes": {**layout.attributes, **({} if finished else {UNFINISHED: True})},
        },
    }
    tensorstore.open(spec, create=True, context=store_context()).result()


def _is_there(folder: Place) -> bool:
    return open_store(folder).read("zarr.json").result().state != "missing"


def _remove(folder: Place) -> None:
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        open_store(folder).delete_range(tensorstore.KvStore.KeyRange()).result()


def write_image_label(place: Place, *, dataset: str | None, document: Mapping[str, Any]) -> None:
    """Let the image `dataset` say that it is of labels, and what is known of them (OME-NGFF's `image-label`).

    An image in a group `labels` is listed there, where programs look for the labels of the image around it.

    Raises:
        OutputError: it cannot be written.
    """
    with store_errors(place):
        store = open_store(place)
        groups = ["", *_ancestors(dataset)]
        image = _attributes_of(store, groups[-1])
        image["ome"][_IMAGE_LABEL] = document
        _write_attributes(store, groups[-1], image)
        parent, _, name = (dataset or "").rpartition("/")
        if parent.rpartition("/")[2] == "labels":
            _write_attributes(store, groups[-2], {"ome": {"version": "0.5", "labels": [name]}})


def _attributes_of(store: tensorstore.KvStore, group: str) -> dict[str, Any]:
    found = store.read(f"{group}zarr.json").result()
    attributes: dict[str, Any] = {} if found.state == "missing" else json.loads(found.value)["attributes"]
    return attributes


def _write_attributes(store: tensorstore.KvStore, group: str, attributes: Mapping[str, Any]) -> None:
    _write_json(store, f"{group}zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _write_group(store: tensorstore.KvStore, group: str, levels: Sequence[ArrayLayout]) -> None:
    image: dict[str, Any] = {}
    if levels:
        said = _attributes_of(store, group).get("ome", {})
        labels = {_IMAGE_LABEL: said[_IMAGE_LABEL]} if _IMAGE_LABEL in said else {}
        image = {"ome": {"version": "0.5", "multiscales": [_multiscale(levels)], **labels}}
    _write_attributes(store, group, image)


def _multiscale(levels: Sequence[ArrayLayout]) -> dict[str, Any]:
    finest = levels[0]
    unit = {} if finest.voxel_size_nm is None else {"unit": "nanometer"}
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    if len(finest.shape) == 4:
        axes = [{"name": "c", "type": "channel"}, *axes]
    datasets = [
        {"path": str(number), "coordinateTransformations": _transformations(level)}
        for number, level in enumerate(levels)
    ]
    return {"axes": axes, "datasets": datasets}


def _transformations(layout: ArrayLayout) -> list[dict[str, Any]]:
    """Return where the voxels of a level lie: OME-NGFF speaks of their centres."""
    edges = layout.voxel_size_nm or (1.0, 1.0, 1.0)
    scale = [edge * factor for edge, factor in zip(edges, layout.factors, strict=True)]
    triples = zip(layout.offset, edges, layout.factors, strict=True)
    translation = [round(first + edge * (factor - 1) / 2, 6) for first, edge, factor in triples]
    if len(layout.shape) == 4:
        scale, translation = [1.0, *scale], [0.0, *translation]
    moved = [{"type": "translation", "translation": translation}] if any(translation) else []
    return [{"type": "scale", "scale": scale}, *moved]


def open_store(place: Place) -> tensorstore.KvStore:
    """Return the store of keys and values below a folder."""
    return tensorstore.KvStore.open(kvstore_of(place), context=store_context()).result()


def _store_problem(error: Exception) -> str:
    """Return what a store says of an error, in a few words."""
    text = str(error)
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
    found = next((os.strerror(number) for number in numbers if os.strerror(number) in text), None)
    return found or reason(error).partition(" [")[0]


def _ancestors(dataset: str | None) -> list[str]:
    """Return the prefixes of the groups on the way to `dataset`: a/, a/b/."""
    parts = dataset.split("/") if dataset else []
    return ["/".join(parts[: count + 1]) + "/" for count in range(len(parts))]


def _array_place(place: Place, dataset: str | None, level: int = 0) -> Place:
    return place / (f"{dataset}/{level}" if dataset else str(level))


def _write_json(store: tensorstore.KvStore, key: str, document: Mapping[str, Any]) -> None:
    store.write(key, json.dumps(document, indent=2).encode()).result()


@contextmanager
def store_errors(place: Place) -> Iterator[None]:
    """Turn what tensorstore raises where it cannot write below `place` into one sentence.

    Raises:
        OutputError: in the block, something cannot be written or read.
    """
    try:
        with reachable(place):
            yield
    except OutputError:
        raise
    except ZooError as error:
        raise OutputError(str(error)) from None
    except (RuntimeError, ValueError, OSError) as error:
        problem = _store_problem(error)
        is_full = problem in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
        way_out = "make room and repeat the command" if is_full else "give a writable place"
        raise OutputError(f"{place}: cannot be written ({problem}), {way_out}.") from None
