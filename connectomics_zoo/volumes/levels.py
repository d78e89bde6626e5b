"""Levels of detail of a volume: chosen by name, number or voxel size, and where they lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.axes import declared_axes
from connectomics_zoo.volumes.metadata import (
    VoxelSize,
    as_list,
    as_voxel_size,
    axes_of_multiscales,
    known_size,
    nanometres,
    voxel_size_from_multiscales,
)
from connectomics_zoo.volumes.voxel_size import is_same_voxel_size

Offset = tuple[float, float, float]
"""Where the first voxel of a volume lies (z, y, x), in nanometres, as the format counts."""

_LENGTHS = re.compile(r"([\d.]+)(?:[x,]([\d.]+)[x,]([\d.]+))? ?nm")


def choose_level(levels: Mapping[str, VoxelSize | None], level: str | None, *, location: str) -> str:
    """Return the name of the level that `level` means, the first where it is None.

    Args:
        levels: the voxel size of each level by its name, the finest first.
        level: a name, a number from 0 up, or an edge of its voxels as `16nm` or `40x8x8nm` (z, y, x).
        location: names the volume in errors.

    Raises:
        VolumeError: there is none, or none that is so coarse.
    """
    names = list(levels)
    if level is None:
        return names[0]
    if level in levels:
        return level
    if level.isdecimal() and int(level) < len(names):
        return names[int(level)]
    wanted = _voxel_size(level)
    for name, size in levels.items():
        if wanted is not None and size is not None and is_same_voxel_size(size, wanted):
            return name
    known = ", ".join(name + ("" if size is None else f" ({_shown(size)} nm)") for name, size in levels.items())
    raise VolumeError(f"{location}: has no level {level!r} but {known}: give a name, a number from 0 up, or a size.")


def _voxel_size(text: str) -> VoxelSize | None:
    found = _LENGTHS.fullmatch(text)
    if found is None:
        return None
    return as_voxel_size([found[1], found[2] or found[1], found[3] or found[1]])


def _shown(size: VoxelSize) -> str:
    return "x".join(f"{length:g}" for length in size)


def levels_of_multiscales(entry: Mapping[str, Any]) -> dict[str, VoxelSize | None]:
    """Return the voxel sizes of the levels of an OME-NGFF multiscale image by their paths."""
    paths = [str(item.get("path", "")).strip("/") for item in entry["datasets"]]
    rank = len(as_list(entry.get("axes"))) or 5
    axes = declared_axes(axes_of_multiscales(entry, rank=rank), rank=rank) or ""
    return {path: known_size(voxel_size_from_multiscales(entry, level=path, axes=axes)) for path in paths}


def offset_from_multiscales(entry: Mapping[str, Any], *, level: str, axes: str) -> Offset | None:
    """Return the translation of a level of an OME-NGFF multiscale image, None without one or without units."""
    named = entry.get("axes")
    levels = [item for item in entry["datasets"] if str(item.get("path", "")).strip("/") == level]
    if not isinstance(named, list) or len(levels) != 1:
        return None
    fine = _transformation(levels[0], kind="translation", count=len(axes))
    scale = _transformation(entry, kind="scale", count=len(axes)) or [1.0] * len(axes)
    whole = _transformation(entry, kind="translation", count=len(axes))
    if fine is None and whole is None:
        return None
    zero = [0.0] * len(axes)
    total = [a * s + b for a, s, b in zip(fine or zero, scale, whole or zero, strict=True)]
    units = [item.get("unit") if isinstance(item, dict) else None for item in named]
    return spatial_offset(total, axes=axes, units=units)


def spatial_offset(values: object, *, axes: str, units: object) -> Offset | None:
    """Return z, y and x of a position, of which there is a value and a unit for each of the `axes`."""
    numbers, names = as_list(values), as_list(units)
    if not len(numbers) == len(names) == len(axes):
        return None
    found: dict[str, float] = {}
    for axis, number, name in zip(axes, numbers, names, strict=True):
        factor = nanometres(name) if name is not None else None
        if axis in "zyx":
            if factor is None or not isinstance(number, int | float):
                return None
            found[axis] = float(number) * factor
    return (found["z"], found["y"], found["x"]) if len(found) == 3 else None


def _transformation(holder: Mapping[str, Any], *, kind: str, count: int) -> list[float] | None:
    for item in as_list(holder.get("coordinateTransformations")):
        if isinstance(item, dict) and item.get("type") == kind:
            values = as_list(item.get(kind))
            if len(values) == count and all(isinstance(value, int | float) for value in values):
                return [float(value) for value in values]
    return None
