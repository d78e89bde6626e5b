"""Voxel sizes: when two are the same, and how they are written."""

from __future__ import annotations

VOXEL_SIZE_TOLERANCE = 0.1
"""Fraction by which a volume's voxels may differ from those that the network was trained on."""


def lengths(voxel_size_nm: tuple[float, float, float]) -> str:
    """Return a voxel size as errors show it: `30 x 8 x 8`."""
    return " x ".join(f"{length:g}" for length in voxel_size_nm)
