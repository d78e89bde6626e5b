"""Reads and writes one array of a Zarr store on disk (formats 2 and 3), with OME-NGFF metadata.

The hierarchy is read from its JSON files, since zarr-python 2 and 3 differ there; voxels go through zarr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.volumes.axes import agreed_axes, axes_in_attributes
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.location import dataset_error
from connectomics_zoo.volumes.metadata import (
    VoxelSize,
    axes_of_multiscales,
    multiscales_entry,
    voxel_size_from_attributes,
    voxel_size_from_multiscales,
)
from connectomics_zoo.volumes.zarr_codecs import refuse_codecs

_LIBRARY_VERSION = int(zarr.__version__.split(".")[0])


class ZarrArray:
    """An open array; `read` touches only the chunks that the index needs."""

    def __init__(self, path: Path, *, dataset: str | None) -> None:
        self._path = path
        with readable(path, kind="Zarr"):
            folder = _choose_array(path, dataset=dataset)
            self.dataset = folder.relative_to(path).as_posix() if folder != path else None
            node = _read_node(folder)
            if node["zarr_format"] == 3 and _LIBRARY_VERSION < 3:
                raise MissingPackageError(
                    f"{path}: is in Zarr format 3, and zarr {zarr.__version__} reads format 2 only, "
                    "run `pip install 'zarr>=3'` (Python 3.11 or newer)."
                )
            name = "zarr.json" if node["zarr_format"] == 3 else ".zarray"
            refuse_codecs(_read_json(folder / name), location=folder)
            # Where both formats' files lie in one folder, zarr must not open another one than was looked at.
            version: dict[str, Any] = {"zarr_format": node["zarr_format"]} if _LIBRARY_VERSION >= 3 else {}
            self._array: Any = zarr.open_array(str(folder), mode="r", **version)
            self.shape: tuple[int, ...] = tuple(self._array.shape)
            self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
            self._read_metadata(folder, node=node)

    def _read_metadata(self, folder: Path, *, node: dict[str, Any]) -> None:
        rank = len(self.shape)
        self.attributes: Mapping[str, Any] = dict(node["attributes"])
        entry, level = _multiscales_of(folder, store=self._path)
        said: dict[str, object] = {} if entry is None else {"multiscales": axes_of_multiscales(entry, rank=rank)}
        said |= {"dimension_names": node["dimension_names"]} | axes_in_attributes(self.attributes)
        self.axes: str = agreed_axes(said, rank=rank, location=str(folder))
        scaled = voxel_size_from_multiscales(entry, level=level, axes=self.axes) if entry is not None else None
        self.voxel_size_nm: VoxelSize | None = scaled or voxel_size_from_attributes(self.attributes, axes=self.axes)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the array."""
        with readable(self._path, kind="Zarr"):
            return np.asarray(self._array[index])

    def close(self) -> None:
        """Nothing stays open between two reads."""


def _read_node(folder: Path) -> dict[str, Any]:
    """Return kind ("array" or "group"), format, attributes and dimension names of a node, or {}."""
    if (folder / "zarr.json").is_file():
        document = _read_json(folder / "zarr.json")
        return {
            "kind": document["node_type"],
            "zarr_format": 3,
            "attributes": document.get("attributes", {}),
            "dimension_names": document.get("dimension_names") or (),
        }
    for name, kind in ((".zarray", "array"), (".zgroup", "group")):
        if (folder / name).is_file():
            attributes = _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
            return {"kind": kind, "zarr_format": 2, "attributes": attributes, "dimension_names": ()}
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise TypeError(f"{path.name} holds no JSON object")
    return document


def zarr_arrays(folder: Path) -> list[Path]:
    """Return the folders of all arrays in and below `folder`, without looking into their chunks.

    Each is there once, under its own name rather than a link's, so that links in a circle do no harm.
    """
    found, seen = list[Path](), set[Path]()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        item = waiting.pop() if waiting else links.pop()
        place = item.resolve()
        if place in seen:
            continue
        seen.add(place)
        if _read_node(item).get("kind") == "array":
            found.append(item)
            continue
        for below in sorted(item.iterdir(), reverse=True):
            if below.is_dir():
                (links if below.is_symlink() else waiting).append(below)
    return sorted(found)


def _choose_array(path: Path, *, dataset: str | None) -> Path:
    """Return the folder of the array `dataset`, or of the only array or finest level in it."""
    folder = path / dataset if dataset else path
    node = _read_node(folder) if folder.is_dir() else {}
    if node.get("kind") == "array":
        return folder
    known = zarr_arrays(path)
    entry = multiscales_entry(node.get("attributes", {}))
    if entry is not None:
        level = str(entry["datasets"][0].get("path", "")).strip("/")
        finest = folder / level
        if ".." not in Path(level).parts and finest.is_dir() and _read_node(finest).get("kind") == "array":
            return finest
    below = [item for item in known if item.is_relative_to(folder)]
    if len(below) == 1:
        return below[0]
    if dataset is not None and below:
        names = [item.relative_to(path).as_posix() for item in below]
        raise dataset_error(f"{path}:{dataset}", dataset=None, known=names)
    names = [item.relative_to(path).as_posix() for item in known if item != path]
    raise dataset_error(str(path), dataset=dataset, known=names)


def _multiscales_of(folder: Path, *, store: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the multiscale image that has `folder` as a level, and the path of the level in it."""
    for group in folder.parents:
        if not group.is_relative_to(store):
            break
        entry = multiscales_entry(_read_node(group).get("attributes", {}))
        level = folder.relative_to(group).as_posix()
        if entry is not None and any(str(item.get("path", "")).strip("/") == level for item in entry["datasets"]):
            return entry, level
    return None, ""
