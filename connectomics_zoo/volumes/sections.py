"""Finds the sections in a folder: pictures of one kind, in the natural order of their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from connectomics_zoo.errors import VolumeError

Kind = Literal["TIFF", "PNG"]

_KIND_OF_SUFFIX: dict[str, Kind] = {".tif": "TIFF", ".tiff": "TIFF", ".png": "PNG"}


def find_sections(folder: Path) -> tuple[Kind, list[Path]]:
    """Return the sections in a folder and their kind; where some are TIFFs, others are taken for previews.

    Raises:
        VolumeError: there is none, or one is no regular file.
    """
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    by_kind: dict[Kind, list[Path]] = {"TIFF": [], "PNG": []}
    for path in files:
        kind = _KIND_OF_SUFFIX.get(path.suffix.lower())
        if kind is not None:
            by_kind[kind].append(path)
    for kind, sections in by_kind.items():
        for path in sections:
            if not path.is_file():
                raise VolumeError(
                    f"{path}: is no regular file, and each section must be one, remove it from the folder."
                )
        if sections:
            return kind, sorted(sections, key=lambda path: _natural_key(path.name))
    kinds = sorted({path.suffix.lower() for path in files if path.is_file() and path.suffix})
    instead = f" (but {', '.join(kinds[:3])})" if kinds else ""
    raise VolumeError(f"{folder}: the folder holds no .tif or .png file{instead}, check the path.")


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which `slice_2` comes before `slice_10`."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name
