"""Reads one array of a Zarr store (formats 2 and 3), with what OME-NGFF says of it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import MissingPackageError, VolumeError
from connectomics_zoo.volumes.axes import agreed_axes, axes_in_attributes
from connectomics_zoo.volumes.checks import is_regular, readable
from connectomics_zoo.volumes.chunked import ChunkedArray
from connectomics_zoo.volumes.hierarchy import Hierarchy, Node
from connectomics_zoo.volumes.levels import Offset, choose_level, levels_of_multiscales, offset_from_multiscales
from connectomics_zoo.volumes.location import ZARR_METADATA, dataset_error
from connectomics_zoo.volumes.metadata import (
    StatedVoxelSize,
    axes_of_multiscales,
    multiscales_entry,
    voxel_size_from_attributes,
    voxel_size_from_multiscales,
)
from connectomics_zoo.volumes.store_files import read_files
from connectomics_zoo.volumes.uri import Place, is_forked
from connectomics_zoo.volumes.zarr_codecs import foreign_codec, refuse_codecs


class _Chunks(Protocol):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]: ...


class ZarrArray:
    """An open array; `read` touches only the chunks that the index needs."""

    def __init__(self, place: Place, *, dataset: str | None, level: str | None = None) -> None:
        self._place = place
        with readable(place, kind="Zarr"):
            store = Hierarchy(place)
            name = _choose_array(store, dataset=dataset, level=level)
            self.dataset = name or None
            node = store.node(name)
            assert node is not None
            folder = store.folder(name)
            self._chunks = _open_chunks(folder, node)
            self._files = _ChunkFiles(folder, node) if isinstance(folder, Path) else None
            self.shape: tuple[int, ...] = self._chunks.shape
            self.dtype: np.dtype[Any] = self._chunks.dtype
            self._read_metadata(store, name, node=node)

    def _read_metadata(self, store: Hierarchy, name: str, *, node: Node) -> None:
        rank = len(self.shape)
        self.attributes: Mapping[str, Any] = dict(node.attributes)
        entry, level = _multiscales_of(store, name)
        said: dict[str, object] = {} if entry is None else {"multiscales": axes_of_multiscales(entry, rank=rank)}
        said |= {"dimension_names": node.document.get("dimension_names") or ()} | axes_in_attributes(self.attributes)
        self.axes: str = agreed_axes(said, rank=rank, location=str(store.folder(name)))
        scaled = voxel_size_from_multiscales(entry, level=level, axes=self.axes) if entry is not None else None
        own = voxel_size_from_attributes(self.attributes, axes=self.axes)
        self.voxel_size_nm: StatedVoxelSize = scaled if isinstance(scaled, tuple) else own or scaled
        self.offset_nm: Offset | None = (
            None if entry is None else offset_from_multiscales(entry, level=level, axes=self.axes)
        )

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the array."""
        with readable(self._place, kind="Zarr"):
            if self._files is not None:
                self._files.check(index)
            return self._chunks.read(index)

    def close(self) -> None:
        """Nothing stays open between two reads."""


class _ChunkFiles:
    """The files of the chunks, or shards, of a local array: what is there must be files, or would be read as zeros."""

    def __init__(self, folder: Path, node: Node) -> None:
        self._folder = folder
        document = node.document
        if node.format == 2:
            self._edges = document["chunks"]
            self._prefix, self._separator = "", document.get("dimension_separator", ".")
            return
        self._edges = document["chunk_grid"]["configuration"]["chunk_shape"]
        encoding = document["chunk_key_encoding"]
        is_default = encoding["name"] == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if is_default else ".")
        self._prefix, self._separator = f"c{separator}" if is_default else "", separator

    def check(self, index: tuple[slice, ...]) -> None:
        """Refuse what is no regular file in the place of a chunk of a block.

        Raises:
            VolumeError: something else is there, or an empty file.
        """
        spans = (
            range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(index, self._edges, strict=True)
        )
        for place in itertools.product(*spans):
            is_regular(self._folder / f"{self._prefix}{self._separator.join(map(str, place))}")


def _open_chunks(folder: Place, node: Node) -> _Chunks:
    refuse_codecs(node.document, location=folder)
    foreign = foreign_codec(node.document)
    if isinstance(folder, Path) and (foreign is not None or is_forked()):
        return _PythonChunks(folder, zarr_format=node.format)
    if foreign is not None:
        raise VolumeError(
            f"{folder}: is stored by the codec {foreign!r}, which is read from local files only, download it first."
        )
    return ChunkedArray("zarr3" if node.format == 3 else "zarr", folder=folder, metadata=node.file)


class _PythonChunks:
    """An array that zarr-python reads: it has more codecs than tensorstore, and reads in forked processes."""

    def __init__(self, folder: Path, *, zarr_format: int) -> None:
        zarr: Any = importlib.import_module("zarr")
        files: Any = importlib.import_module("connectomics_zoo.volumes.zarr_files").RegularFiles(folder)
        self._files = files
        if int(zarr.__version__.split(".")[0]) >= 3:
            # Where both formats' files lie in one folder, zarr must not open another one than was looked at.
            self._array: Any = zarr.open_array(files, mode="r", zarr_format=zarr_format)
        elif zarr_format == 2:
            self._array = zarr.open_array(files, mode="r")
        else:
            raise MissingPackageError(
                f"{folder}: is in Zarr format 3 and its codecs, or a forked process, need zarr-python 3, and "
                f"{zarr.__version__} is installed: run `pip install 'zarr>=3'` (Python 3.11 or newer)."
            )
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        block = np.asarray(self._array[index])
        if self._files.refused is not None:
            raise self._files.refused
        return block


def _choose_array(store: Hierarchy, *, dataset: str | None, level: str | None) -> str:
    """Return the name of the array `dataset`, or of a level or the only array in it."""
    name = dataset or ""
    here = f"{store.place}:{dataset}" if dataset else str(store.place)
    node = store.node(name)
    entry = None if node is None or node.kind == "array" else multiscales_entry(node.attributes)
    if level is not None:
        if entry is None:
            raise VolumeError(f"{here}: is no image of several levels, leave '#{level}' out.")
        return _level_of(store, name, entry, level=level)
    if node is not None and node.kind == "array":
        return name
    if entry is not None:
        finest = _joined(name, choose_level(levels_of_multiscales(entry), None, location=here))
        if ".." not in finest.split("/") and store.is_array(finest):
            return finest
    return _only_array(store, name, dataset=dataset)


def _level_of(store: Hierarchy, group: str, entry: Mapping[str, Any], *, level: str) -> str:
    here = f"{store.place}:{group}" if group else str(store.place)
    path = choose_level(levels_of_multiscales(entry), level, location=here)
    name = _joined(group, path)
    if ".." in name.split("/") or not store.is_array(name):
        raise VolumeError(f"{here}: its level {path!r} is not there, check that it was copied completely.")
    return name


def _joined(group: str, path: str) -> str:
    return f"{group}/{path}".strip("/")


def _only_array(store: Hierarchy, name: str, *, dataset: str | None) -> str:
    known = store.arrays()
    if known is None:
        if dataset is not None and store.node(name) is None:
            read_files(store.folder(name), ZARR_METADATA)  # which says so where it is there and not given
            raise VolumeError(f"{store.place}: there is no array {dataset!r}, check its name.")
        raise VolumeError(
            f"{store.place}{':' + dataset if dataset else ''}: is a group, say which array in it, as in "
            f"{store.place.name}:{_joined(name, 'ARRAY')}."
        )
    below = [item for item in known if not name or item == name or item.startswith(f"{name}/")]
    if len(below) == 1:
        return below[0]
    if dataset is not None and below:
        raise dataset_error(f"{store.place}:{dataset}", dataset=None, known=below)
    raise dataset_error(str(store.place), dataset=dataset, known=[item for item in known if item])


def _multiscales_of(store: Hierarchy, name: str) -> tuple[dict[str, Any] | None, str]:
    """Return the multiscale image that has the array `name` as a level, and the path of the level in it."""
    for group, node in store.above(name):
        entry = multiscales_entry(node.attributes)
        level = name[len(group) :].strip("/")
        if entry is not None and any(str(item.get("path", "")).strip("/") == level for item in entry["datasets"]):
            return entry, level
    return None, ""
