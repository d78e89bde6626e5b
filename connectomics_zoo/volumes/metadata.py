"""Reads voxel sizes from the attributes and headers that HDF5, TIFF and Zarr files carry.

Whatever is missing, malformed or without a unit is unknown (None), never guessed; a unit that is not known is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.json_text import parse_json

VoxelSize = tuple[float, float, float]
"""Edge lengths of a voxel (z, y, x) in nanometres."""


@dataclass(frozen=True)
class UnknownUnit:
    """The unit of a voxel size that is no length known here; it takes somebody to say the voxel size."""

    name: str


StatedVoxelSize = VoxelSize | UnknownUnit | None
"""What a file says of its voxel size."""


def known_size(stated: StatedVoxelSize) -> VoxelSize | None:
    """Return a voxel size in nanometres, None where it is not said or in a unit that is not known."""
    return None if isinstance(stated, UnknownUnit) else stated


_OME_CONTENT = "content="

UNIT_ATTRIBUTES = (
    "units",
    "unit",
    "voxel_size_units",
    "voxel_size_unit",
    "resolution_units",
    "resolution_unit",
    "axis_units",
)
"""Attributes that say the unit of `resolution` and `voxel_size`."""

_NANOMETRES: dict[str, float] = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "picometre": 1e-3,
    "angstrom": 0.1,
    "ångström": 0.1,
    "ångstrom": 0.1,
    "\u00c5": 0.1,  # the letter
    "\u212b": 0.1,  # the sign of the unit
    "A": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "µm": 1e3,  # micro sign
    "μm": 1e3,  # Greek mu
    "\\u00b5m": 1e3,  # as ImageJ escapes it
    "um": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "centimetre": 1e7,
    "inch": 2.54e7,
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
}

_NO_UNITS = frozenset(
    {"", "none", "null", "unknown", "pixel", "px", "voxel", "index", "arbitrary", "unitless", "dimensionless"}
    | {"a.u.", "1", "reference frame"}  # OME's
)
"""What programs write where there is no unit."""


def nanometres(unit: object) -> float | None:
    """Return how many nanometres one `unit` has, or None if it is no known length."""
    name = as_text(unit).strip()
    for candidate in (name, name.lower(), name.lower().removesuffix("s")):
        if candidate in _NANOMETRES:
            return _NANOMETRES[candidate]
    return None


def _factor(unit: object) -> float | UnknownUnit | None:
    """Return how many nanometres one `unit` has; None where there is no unit."""
    name = "" if unit is None else as_text(unit).strip()
    if name.lower() in _NO_UNITS or name.lower().removesuffix("s") in _NO_UNITS:
        return None
    return nanometres(name) or UnknownUnit(name)


def as_voxel_size(values: object) -> VoxelSize | None:
    """Return three positive, finite numbers as a voxel size, and anything else as None."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        return None
    try:
        z, y, x = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(math.isfinite(value) and value > 0 for value in (z, y, x)) else None


def voxel_size_from_attributes(attributes: Mapping[str, Any], *, axes: str) -> StatedVoxelSize:
    """Return the voxel size in an array's attributes.

    Read are `voxel_size_nm`, `resolution` (CREMI) and `voxel_size` (gunpowder, funlib), in nm unless `units` or `unit`
    says otherwise, and `element_size_um` (Fiji, ilastik). Values are in the order of the array's axes.
    """
    for key, factor in (("voxel_size_nm", 1.0), ("resolution", None), ("voxel_size", None)):
        if key in attributes:
            units = next((attributes[name] for name in UNIT_ATTRIBUTES if name in attributes), None)
            factors = _unit_factors(units, axes=axes) if factor is None else [factor] * 3
            return _spatial(attributes[key], axes=axes, factors=factors)
    if "element_size_um" in attributes:
        return _spatial(attributes["element_size_um"], axes=axes, factors=[1e3] * 3)
    return None


def _unit_factors(units: object, *, axes: str) -> list[float | UnknownUnit | None]:
    """Return the nanometres in the unit of z, y and x, in the order of `axes`; one unit is that of all."""
    if units is None:
        return [1.0] * 3
    names = [as_text(units)] if isinstance(units, str | bytes) else [as_text(unit) for unit in as_list(units)]
    if len(names) == 1 or not hasattr(units, "__len__"):
        names = (names or [as_text(units)]) * 3
    if len(names) == len(axes):
        names = [name for axis, name in zip(axes, names, strict=True) if axis in "zyx"]
    return [_factor(name) for name in names]


def _spatial(values: object, *, axes: str, factors: Sequence[float | UnknownUnit | None]) -> StatedVoxelSize:
    """Pick z, y and x out of `values`, which has one value for each axis or each spatial axis."""
    numbers = as_list(values)
    spatial = [axis for axis in axes if axis in "zyx"]
    if len(numbers) == len(axes):
        numbers = [number for axis, number in zip(axes, numbers, strict=True) if axis in "zyx"]
    if len(numbers) != len(spatial) or len(factors) != len(spatial) or None in factors:
        return None
    unknown = next((factor for factor in factors if isinstance(factor, UnknownUnit)), None)
    known = [factor if isinstance(factor, float) else 1.0 for factor in factors]
    try:
        by_axis = {axis: float(number) * one for axis, number, one in zip(spatial, numbers, known, strict=True)}
        size = as_voxel_size([by_axis[axis] for axis in "zyx"])
    except (TypeError, ValueError, KeyError):
        return None
    return size if size is None or unknown is None else unknown


def multiscales_entry(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first OME-NGFF multiscale image in a group's attributes (0.4, or 0.5 under `ome`)."""
    holder = attributes.get("ome", attributes)
    entries = holder.get("multiscales") if isinstance(holder, Mapping) else None
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        levels = entries[0].get("datasets")
        if isinstance(levels, list) and levels and all(isinstance(level, dict) for level in levels):
            return entries[0]
    return None


def axes_of_multiscales(entry: Mapping[str, Any], *, rank: int) -> object:
    """Return the axis names of an OME-NGFF multiscale image as they are; before version 0.3 it was always tczyx."""
    names = entry.get("axes")
    return "tczyx" if names is None and rank == 5 else names


def voxel_size_from_multiscales(entry: Mapping[str, Any], *, level: str, axes: str) -> StatedVoxelSize:
    """Return the voxel size of one level of an OME-NGFF multiscale image, None where it does not say it."""
    named = entry.get("axes")
    levels = [item for item in entry["datasets"] if str(item.get("path", "")).strip("/") == level]
    if not isinstance(named, list) or len(levels) != 1:
        return None
    units = [item.get("unit") if isinstance(item, dict) else None for item in named]
    scales = [_scale(item, count=len(axes)) for item in (levels[0], entry)]
    if scales[0] is None:
        return None
    whole = scales[1] or [1.0] * len(axes)
    total = [fine * coarse for fine, coarse in zip(scales[0], whole, strict=True)]
    # Axes may have words for names, and are in the order of the array's.
    factors = [_factor(unit) for axis, unit in zip(axes, units, strict=False) if axis in "zyx"]
    return _spatial(total, axes=axes, factors=factors)


def _scale(holder: Mapping[str, Any], *, count: int) -> list[float] | None:
    transformations = holder.get("coordinateTransformations")
    for item in transformations if isinstance(transformations, list) else []:
        if isinstance(item, dict) and item.get("type") == "scale":
            values = as_list(item.get("scale"))
            numeric = all(isinstance(value, int | float) for value in values)
            return [float(value) for value in values] if numeric and len(values) == count else None
    return None


def voxel_size_from_imagej(
    metadata: Mapping[str, Any], *, y_resolution: object, x_resolution: object
) -> StatedVoxelSize:
    """Return the voxel size in ImageJ's `unit` and `spacing` and the TIFF tags in pixels for each unit."""
    unit = metadata.get("unit")
    factors = [_factor(metadata.get(key, unit)) for key in ("zunit", "yunit", "unit")]
    pixels = [_ratio(y_resolution), _ratio(x_resolution)]
    if None in factors or None in pixels or "spacing" not in metadata:
        return None
    lengths = [metadata["spacing"], *(1.0 / pixel for pixel in pixels if pixel)]
    return _spatial(lengths, axes="zyx", factors=factors)


def _ratio(value: object) -> float | None:
    parts = as_list(value)
    return parts[0] / parts[1] if len(parts) == 2 and parts[0] and parts[1] else None


def voxel_size_from_ome(xml: str) -> StatedVoxelSize:
    """Return PhysicalSizeZ, Y and X of the first image of an OME-XML header."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((item for item in root.iter() if item.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    lengths = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    # The schema's default unit is the micrometre.
    factors = [_factor(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"]
    return _spatial(lengths, axes="zyx", factors=factors)


def description_of(attributes: Mapping[str, Any]) -> str:
    """Return how the description of an OME image carries attributes."""
    return json.dumps(attributes, separators=(",", ":"))


def attributes_from_ome(xml: str) -> dict[str, Any]:
    """Return the attributes in the description of the first image of an OME-XML header; none where it is another text.

    Version 0.1.0 wrote `content=…` alone.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    text = next((item.text or "" for item in root.iter() if item.tag.rpartition("}")[2] == "Description"), "")
    if text.startswith(_OME_CONTENT):
        return {"content": text.removeprefix(_OME_CONTENT)}
    try:
        return parse_json(text, source="the description")
    except SpecError:
        return {}


def as_list(values: object) -> list[Any]:
    """Return the items of a list or an array as files hold them, none of anything else."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        return []
    try:
        return list(values)
    except TypeError:  # an array without axes has the method all the same
        return []


def as_text(value: object) -> str:
    """Return a text of a file, which HDF5 may give as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
