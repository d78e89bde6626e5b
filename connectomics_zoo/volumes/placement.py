"""Where a prediction lies in the volume that it was predicted from."""

from __future__ import annotations

from dataclasses import dataclass

from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.metadata import VoxelSize


@dataclass(frozen=True)
class Placement:
    """Where a volume lies in the one that it was predicted from."""

    box: Box
    """Its voxels there."""
    whole_shape: tuple[int, int, int]
    """Voxels (z, y, x) of that volume."""


def placement_of(box: Box, *, whole_shape: tuple[int, int, int]) -> Placement | None:
    """Return that a volume is `box` of one of `whole_shape`, None where that is all of it."""
    return None if box.shape == whole_shape else Placement(box, whole_shape)


def offset_of_part(
    first: tuple[int, int, int], *, voxel_size_nm: VoxelSize | None, whole_offset_nm: Offset | None
) -> Offset:
    """Return where a part of a volume lies (z, y, x): in nm, or in voxels of the volume where their size is not known.

    Args:
        first: its first voxel in the volume.
        voxel_size_nm: of both.
        whole_offset_nm: where the volume itself lies, None where it does not say.
    """
    if voxel_size_nm is None:
        z, y, x = first
        return float(z), float(y), float(x)
    triples = zip(whole_offset_nm or (0.0, 0.0, 0.0), first, voxel_size_nm, strict=True)
    z_nm, y_nm, x_nm = (begin + voxel * edge for begin, voxel, edge in triples)
    return z_nm, y_nm, x_nm
