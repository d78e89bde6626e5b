"""The axes of an array as files name them, understood or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.metadata import as_list, as_text

ATTRIBUTES = (
    "axes",
    "axistags",
    "axis_names",
    "axes_names",
    "axis_order",
    "axes_order",
    "dimension_names",
    "dim_names",
    "_ARRAY_DIMENSIONS",
)
"""Attributes that name axes: of many tools, vigra and ilastik, funlib, xarray."""

_WORDS = {
    "z": ("z", "depth", "slice", "section", "plane", "layer"),
    "y": ("y", "row", "height"),
    "x": ("x", "column", "col", "width"),
    "c": ("c", "channel", "ch"),
    "t": ("t", "time", "frame", "timepoint"),
}
_LETTERS = {word: letter for letter, words in _WORDS.items() for word in words}

_NUMBERED = re.compile(r"(phony_dim|dim|axis|d|c)_?\d+\^?")
"""Names that count axes and say nothing: of netCDF, xarray and funlib."""


def declared_axes(names: object, *, rank: int) -> str | None:
    """Return axis `names` ("zyx", ["channel", "z", "y", "x"], "z, y, x", …) as letters of tczyx, or None."""
    parts = [_letter(name) for name in _split(names)]
    joined = "".join(part for part in parts if part is not None)
    return joined if len(parts) == len(joined) == rank == len(set(joined)) and joined else None


_DEFAULTS: Mapping[int, str] = {3: "zyx", 4: "czyx"}


def agreed_axes(
    said: Mapping[str, object], *, rank: int, location: str, defaults: Mapping[int, str] = _DEFAULTS
) -> str:
    """Return the axes that a file says its array has, else those that so many have in its format.

    Args:
        said: what names them: the names as they are, by where they stand.
        rank: how many axes the array has.
        location: names the array in errors.
        defaults: the axes of arrays without names, by their number.

    Raises:
        VolumeError: names are not understood, two places contradict each other, or none says what so many axes are.
    """
    found: dict[str, str] = {}
    for place, names in said.items():
        if _says_nothing(names):
            continue
        axes = declared_axes(names, rank=rank)
        if axes is None:
            usual = " or ".join(f"({', '.join(letters)})" for letters in defaults.values())
            raise VolumeError(
                f"{location}: {place} names its {rank} axes {_shown(names)}, which are understood as z, y, x, c "
                f"(channels) and t (time), each once: correct the names, or remove them where the order is {usual}."
            )
        found[place] = axes
    if len(set(found.values())) > 1:
        contradiction = " and ".join(f"{place} {axes!r}" for place, axes in found.items())
        raise VolumeError(f"{location}: names its axes twice and not the same ({contradiction}), correct one.")
    if found:
        return next(iter(found.values()))
    return defaults.get(rank, "")


def axes_in_attributes(attributes: Mapping[str, Any]) -> dict[str, object]:
    """Return the names of axes in the attributes of an array, by attribute."""
    said = {key: attributes[key] for key in ATTRIBUTES if key in attributes}
    if "axistags" in said:
        said["axistags"] = _vigra_keys(said["axistags"])
    return said


def _vigra_keys(tags: object) -> object:
    try:
        return [tag["key"] for tag in json.loads(as_text(tags))["axes"]]
    except (ValueError, KeyError, TypeError):
        return as_text(tags)


def _split(names: object) -> list[str]:
    if not isinstance(names, str | bytes):
        return [as_text(name.get("name", "") if isinstance(name, Mapping) else name) for name in as_list(names)]
    text = as_text(names)
    return re.findall(r"[^\s,;|()\[\]\"']+", text) if re.search(r"[\s,;|()\[\]]", text) else list(text)


def _letter(name: str) -> str | None:
    word = name.strip().lower().removesuffix("^")
    return _LETTERS.get(word) or _LETTERS.get(word.removesuffix("s"))


def _says_nothing(names: object) -> bool:
    """Whether no axis is named: nothing is there, all are empty, or they are merely numbered."""
    parts = [] if names is None else _split(names)
    if isinstance(names, str | bytes) and _NUMBERED.fullmatch(as_text(names).strip().lower()):
        return True
    return all(part in ("", "None") or _NUMBERED.fullmatch(part.strip().lower()) for part in parts)


def _shown(names: object) -> str:
    return ascii(as_text(names)) if isinstance(names, str | bytes) else str(_split(names))
