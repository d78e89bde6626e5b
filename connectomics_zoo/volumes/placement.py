"""Where a prediction lies in the volume that it was predicted from."""

from __future__ import annotations

from dataclasses import dataclass

from connectomics_zoo.volumes.box import Box


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
