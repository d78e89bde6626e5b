"""What is asked for when labels are exported, and what comes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo.errors import OutputError, SpecError
from connectomics_zoo.schema.report import Report
from connectomics_zoo.volumes import VoxelSize

LabelFormat = Literal["precomputed", "ome-zarr"]

BLOCK_VOXELS = 2**23
"""Voxels of a block, about."""

IS_WINDOWS = os.name == "nt"

CHUNK = 64
"""Edge of a chunk in voxels."""


@dataclass(frozen=True)
class Request:
    """What is made of labels."""

    format: LabelFormat
    meshes: bool
    """Whether surfaces are."""
    skeletons: bool
    """Whether skeletons are."""
    ids: tuple[int, ...] | None
    """The objects; None for all."""
    min_voxels: int
    """The least that an object has."""
    mesh_error_nm: float | None
    """How far a surface may be from the one before it was simplified; None for two edges of a cube like a voxel."""

    @property
    def is_choice(self) -> bool:
        """Whether some objects may be left out."""
        return self.ids is not None or self.min_voxels > 1

    def check(self) -> None:
        """Refuse what is not possible.

        Raises:
            SpecError: options contradict each other, or one is not possible.
        """
        if self.format != "precomputed" and (self.meshes or self.skeletons):
            raise SpecError(
                f"meshes and skeletons are written in precomputed volumes, and the format is {self.format}: leave "
                "them out, or give --format precomputed."
            )
        if self.meshes and IS_WINDOWS:
            raise SpecError(
                "meshes need files with ':' in their names, as Neuroglancer asks for, which Windows does not have: "
                "leave --meshes out, or export on another system."
            )
        if self.mesh_error_nm is not None and not self.meshes:
            raise SpecError("mesh_error_nm has no effect without meshes, leave it out or give --meshes.")
        if self.mesh_error_nm is not None and not 0 <= self.mesh_error_nm < float("inf"):
            raise SpecError(f"mesh_error_nm {self.mesh_error_nm} is not possible, give a length in nm from 0 up.")
        if self.min_voxels < 0:
            raise SpecError(f"min_voxels {self.min_voxels} is not possible, give a whole number from 0 up.")
        if self.ids is not None and (not self.ids or min(self.ids) < 1 or max(self.ids) >= 2**64):
            raise SpecError(f"ids {list(self.ids)} are not possible, give whole numbers from 1 up.")

    def error_nm(self, voxel_size_nm: VoxelSize) -> float:
        """Return how far a surface may be off."""
        z, y, x = voxel_size_nm
        return 2 * (z * y * x) ** (1 / 3) if self.mesh_error_nm is None else self.mesh_error_nm

    def identity(self) -> dict[str, Any]:
        """Return what the output follows from, by name."""
        return {
            "format": self.format,
            "meshes": self.meshes,
            "skeletons": self.skeletons,
            "ids": None if self.ids is None else sorted(set(self.ids)),
            "min_voxels": self.min_voxels,
            "mesh_error_nm": self.mesh_error_nm,
        }


@dataclass(frozen=True)
class LabelExport(Report):
    """What was exported."""

    labels: str
    """The label volume."""
    out: str
    """What was written."""
    format: str
    """Its format."""
    objects: int
    """How many objects it has."""
    dtype: str
    """Data type of its labels."""
    voxel_size_nm: VoxelSize
    """Edge lengths of a voxel of the finest level (z, y, x)."""
    levels: tuple[tuple[int, int, int], ...]
    """Voxels of each level (z, y, x), the finest first."""
    blocks: int
    """How many blocks were worked on."""
    meshes: int | None = None
    """Objects with a mesh; None where meshes were not asked for."""
    triangles: int | None = None
    """Of all meshes."""
    mesh_error_nm: float | None = None
    """How far a vertex of a mesh may be from the surface of the labels, and of that from the mesh."""
    skeletons: int | None = None
    """Objects with a skeleton; None where skeletons were not asked for."""
    skeleton_length_nm: float | None = None
    """The length of all skeletons."""
    properties: str | None = None
    """The file that viewers read names and sizes from."""
    csv: str | None = None
    """The same as a table (.csv)."""


def check_edges(block: Sequence[int]) -> tuple[int, int, int]:
    """Return edges of blocks as they were asked for.

    Raises:
        SpecError: they are not possible.
    """
    if len(block) != 3 or any(edge < 16 or edge % 16 for edge in block):
        raise SpecError(f"the block {tuple(block)} is not possible, give three multiples of 16 (z, y, x).")
    z, y, x = block
    return z, y, x


def block_edges(voxel_size_nm: VoxelSize) -> tuple[int, int, int]:
    """Return edges of blocks: chunks along each axis, nearly as long in nm."""
    edges = [CHUNK] * 3
    while math.prod(edges) < BLOCK_VOXELS:
        lengths = [edge * size for edge, size in zip(edges, voxel_size_nm, strict=True)]
        edges[lengths.index(min(lengths))] *= 2
    return edges[0], edges[1], edges[2]


def chunk_edges(block: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the edges of chunks, of which a block is made."""
    z, y, x = (max(size for size in (16, 32, 48, CHUNK) if edge % size == 0) for edge in block)
    return z, y, x


def check_folder(out: str | Path) -> Path:
    """Return the folder of a precomputed volume.

    Raises:
        OutputError: it is a URI, or something else is there.
    """
    if "://" in str(out):
        raise OutputError(f"{out}: is a URI, and labels are exported to disks: give the path of a folder, and copy it.")
    path = Path(out).expanduser()
    if path.exists() and not (path / "info").is_file():
        raise OutputError(f"{path}: is no precomputed volume, and would be lost: choose another name.")
    return path
