"""Reads one array of an N5 store, with what n5-viewer, Paintera, BigDataViewer and COSEM say of it.

N5 stores x first: axes are (x, y, z) or (x, y, z, c) unless a file names them, and `resolution` is in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.axes import agreed_axes, axes_in_attributes
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.chunked import ChunkedArray
from connectomics_zoo.volumes.levels import Offset, choose_level, spatial_offset
from connectomics_zoo.volumes.location import dataset_error
from connectomics_zoo.volumes.metadata import (
    StatedVoxelSize,
    UnknownUnit,
    VoxelSize,
    as_list,
    as_voxel_size,
    known_size,
    voxel_size_from_attributes,
)
from connectomics_zoo.volumes.store_files import find_json, read_files
from connectomics_zoo.volumes.uri import Place

_FILE = "attributes.json"
_STORED_ORDER = {3: "xyz", 4: "xyzc", 5: "xyzct"}
_COMPRESSIONS = ("raw", "gzip", "bzip2", "blosc", "xz", "zstd")
_PARAMETERS = ("type", "level", "useZlib", "blockSize", "cname", "clevel", "shuffle", "blocksize", "preset")
_NEEDED = ("dimensions", "blockSize", "dataType")
_OWN = ("n5", *_NEEDED, "compression", "compressionType")


class N5Array:
    """An open array; `read` touches only the blocks that the index needs."""

    def __init__(self, place: Place, *, dataset: str | None, level: str | None = None) -> None:
        self._place = place
        with readable(place, kind="N5"):
            name = _choose_array(place, dataset=dataset, level=level)
            self.dataset = name or None
            self._location = f"{place}:{name}" if name else str(place)
            own = _read(place, name)
            group = {} if not name else _read(place, name.rpartition("/")[0])
            self._chunks = ChunkedArray(
                "n5", folder=place / name, metadata=_FILE, document=_plain(own, location=self._location)
            )
            self.shape: tuple[int, ...] = self._chunks.shape
            self.dtype: np.dtype[Any] = self._chunks.dtype
            self.attributes: Mapping[str, Any] = {key: value for key, value in own.items() if key not in _OWN}
            transform = own.get("transform") or _transform_in(group, name.rpartition("/")[2])
            self._read_metadata(own, group, transform=transform if isinstance(transform, dict) else {})

    def _read_metadata(self, own: Mapping[str, Any], group: Mapping[str, Any], *, transform: dict[str, Any]) -> None:
        rank = len(self.shape)
        is_stored_order = transform.get("ordering") == "F"
        turned = {key: value if is_stored_order else _reversed(value) for key, value in transform.items()}
        # n5 itself has `axes`, in the order of its dimensions; libraries of Python turn that around for all they write.
        said: dict[str, object] = {
            key: names if key == "axes" else _reversed(names) for key, names in axes_in_attributes(own).items()
        }
        said["transform"] = turned.get("axes")
        if "axes" in group and len(as_list(group["axes"])) == rank:
            said["axes of the group"] = group["axes"]
        self.axes: str = agreed_axes(said, rank=rank, location=self._location, defaults=_STORED_ORDER)
        self.offset_nm: Offset | None = spatial_offset(
            turned.get("translate"), axes=self.axes, units=turned.get("units")
        )
        self.voxel_size_nm: StatedVoxelSize = voxel_size_from_attributes(
            {"resolution": turned.get("scale"), "units": turned.get("units", "")}, axes=self.axes
        ) or _voxel_size(own, group, axes=self.axes)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, one slice for each axis of the array."""
        with readable(self._location, kind="N5"):
            return self._chunks.read(index)

    def close(self) -> None:
        """Nothing stays open between two reads."""


def _read(place: Place, name: str) -> dict[str, Any]:
    """Return the attributes of a group or an array, none where there is no such file."""
    return find_json(place / name, _FILE) or {}


def _reversed(value: object) -> object:
    return list(reversed(as_list(value))) if as_list(value) else value[::-1] if isinstance(value, str) else value


def _voxel_size(own: Mapping[str, Any], group: Mapping[str, Any], *, axes: str) -> StatedVoxelSize:
    """Return the voxel size of an array that says it, or whose group does; times what it is made coarser by."""
    for holder in (own, group):
        pixels = holder.get("pixelResolution")
        if isinstance(pixels, dict):
            holder = {"resolution": pixels.get("dimensions"), "units": pixels.get("unit", "")}
        found = voxel_size_from_attributes(holder, axes=axes)
        if found is None:
            continue
        factors = as_list(own.get("downsamplingFactors"))
        if not factors or isinstance(found, UnknownUnit):
            return found
        coarser = voxel_size_from_attributes({"resolution": factors}, axes=axes)
        if isinstance(coarser, tuple):
            return as_voxel_size([length * factor for length, factor in zip(found, coarser, strict=True)])
    return None


def _plain(own: Mapping[str, Any], *, location: str) -> dict[str, Any]:
    """Return what tensorstore needs of the attributes of an array; members that it does not know it refuses."""
    compression = own.get("compression", {"type": own.get("compressionType", "raw")})
    if not isinstance(compression, dict):
        raise ValueError("its compression is no JSON object")
    kind = compression.get("type")
    if kind not in _COMPRESSIONS:
        raise VolumeError(
            f"{location}: is compressed by {kind!r}, which is not read (those that are: {', '.join(_COMPRESSIONS)}): "
            "write the array again with one of those."
        )
    known = {key: value for key, value in compression.items() if key in _PARAMETERS}
    return {**{key: own[key] for key in _NEEDED}, "compression": known}


def _choose_array(place: Place, *, dataset: str | None, level: str | None) -> str:
    """Return the name of the array `dataset`, or of a level or the only array in it."""
    name = dataset or ""
    here = f"{place}:{dataset}" if dataset else str(place)
    attributes = _read(place, name)
    is_array = "dimensions" in attributes
    levels = {} if is_array else _levels(place, name, attributes)
    if level is not None and not levels:
        raise VolumeError(f"{here}: is no image of several levels, leave '#{level}' out.")
    if levels:
        chosen = f"{name}/{choose_level(levels, level, location=here)}".strip("/")
        if ".." not in chosen.split("/") and "dimensions" in _read(place, chosen):
            return chosen
        raise VolumeError(f"{here}: its level {chosen.rpartition('/')[2]!r} is not there, check that it was copied.")
    return name if is_array else _only_array(place, name, dataset=dataset)


def _only_array(place: Place, name: str, *, dataset: str | None) -> str:
    if not isinstance(place, Path):
        if not _read(place, name) and dataset is not None:
            read_files(place / name, [_FILE])  # which says so where it is there and not given
            raise VolumeError(f"{place}: there is no array {dataset!r}, check its name.")
        raise VolumeError(
            f"{place}{':' + dataset if dataset else ''}: is no array of N5, say which one in it, as in "
            f"{place.name}:{f'{name}/ARRAY'.strip('/')}."
        )
    known = _arrays(place)
    below = [item for item in known if not name or item.startswith(f"{name}/")]
    if len(below) == 1:
        return below[0]
    if dataset is not None and below:
        raise dataset_error(f"{place}:{dataset}", dataset=None, known=below)
    raise dataset_error(str(place), dataset=dataset, known=known)


def _arrays(store: Path) -> list[str]:
    """Return the names of all arrays in a local store, without looking into their blocks."""
    found, waiting, seen = list[str](), [store], set[Path]()
    while waiting:
        folder = waiting.pop()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        if "dimensions" in _read(folder, ""):
            found.append(folder.relative_to(store).as_posix())
        else:
            waiting += [item for item in folder.iterdir() if item.is_dir()]
    return sorted(found)


def _levels(place: Place, name: str, attributes: Mapping[str, Any]) -> dict[str, VoxelSize | None]:
    """Return the levels of a group with their voxel sizes, the finest first, none of a group that has none."""
    entry = _multiscales(attributes)
    if entry is not None:
        names = [str(item.get("path", "")).strip("/") for item in entry["datasets"]]
    elif "dimensions" in _read(place / name, "s0"):
        names = ["s0"]
        while "dimensions" in _read(place / name, f"s{len(names)}"):
            names.append(f"s{len(names)}")
    else:
        return {}
    return {item: _size_of_level(place / name, item, attributes) for item in names}


def _size_of_level(folder: Place, level: str, group: Mapping[str, Any]) -> VoxelSize | None:
    own = _read(folder, level)
    transform = own.get("transform") or _transform_in(group, level)
    if isinstance(transform, dict) and transform.get("axes"):
        units = {"resolution": transform.get("scale"), "units": transform.get("units", "")}
        axes = "".join(str(axis) for axis in as_list(transform["axes"]))
        return known_size(voxel_size_from_attributes(units, axes=axes))
    return known_size(_voxel_size(own, group, axes=_STORED_ORDER.get(len(as_list(own.get("dimensions"))), "")))


def _multiscales(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    entries = as_list(attributes.get("multiscales"))
    levels = entries[0].get("datasets") if entries and isinstance(entries[0], dict) else None
    is_understood = isinstance(levels, list) and levels and all(isinstance(item, dict) for item in levels)
    return entries[0] if is_understood else None


def _transform_in(group: Mapping[str, Any], level: str) -> object:
    """Return what a group says of where a level lies."""
    entry = _multiscales(group)
    for item in [] if entry is None else entry["datasets"]:
        if re.sub(r"^/|/$", "", str(item.get("path", ""))) == level:
            return item.get("transform")
    return None
