"""Reads PNG sections as a volume."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.checks import readable
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import VoxelSize

_DTYPES = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "uint16"}
"""Data types by Pillow's modes; before version 11.3 it read 16 bits as `I`."""


class PngFolder:
    """Sections in order; `read` decodes only those that it needs, each of them whole."""

    dataset: str | None = None
    axes: str = "zyx"
    voxel_size_nm: VoxelSize | None = None
    offset_nm: Offset | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, sections: list[Path]) -> None:
        self._paths = sections
        with readable(sections[0], kind="PNG"), _opened(sections[0]) as image:
            self.dtype: np.dtype[Any] = _dtype(image, path=sections[0])
            self.shape: tuple[int, ...] = (len(sections), image.height, image.width)

    def read(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return the block of voxels at `index`, slices along z, y and x."""
        sections, rows, columns = index
        paths = self._paths[sections]
        block = np.empty((len(paths), rows.stop - rows.start, columns.stop - columns.start), dtype=self.dtype)
        for position, path in enumerate(paths):
            with readable(path, kind="PNG"), _opened(path) as image:
                found = _dtype(image, path=path), (image.height, image.width)
                if found != (self.dtype, self.shape[1:]):
                    raise VolumeError(
                        f"{path}: is {found[0]} of shape {found[1]}, and {self._paths[0].name} is {self.dtype} of "
                        f"shape {self.shape[1:]}, but all sections of a volume must agree."
                    )
                block[position] = np.asarray(image)[rows, columns]
        return block

    def close(self) -> None:
        """Nothing stays open between two reads."""


def _opened(path: Path) -> Any:
    """Open a picture; Pillow's own door refuses large ones, as sections are."""
    return importlib.import_module("PIL.PngImagePlugin").PngImageFile(path)


def _dtype(image: Any, *, path: Path) -> np.dtype[Any]:
    if image.mode not in _DTYPES:
        kind = "with a palette" if image.mode == "P" else f"in colour or transparent ({image.mode})"
        raise VolumeError(f"{path}: is a picture {kind}, save it as grey sections of 1, 8 or 16 bits.")
    return np.dtype(_DTYPES[image.mode])
