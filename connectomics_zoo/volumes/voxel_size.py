"""Voxel sizes: when two are the same, when they suit a network, and how they are written."""

from __future__ import annotations

SAME_TOLERANCE = 0.01
"""Fraction by which two statements of one voxel size may differ."""

TRAINED_TOLERANCE = 0.1
"""Fraction by which a volume's voxels may differ from those that the network was trained on."""

FAR_FROM_TRAINED = 2.0
"""How many times as large, or as small, they may be without a warning."""


def is_same_voxel_size(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    """Whether two voxel sizes (z, y, x) say the same, but for rounding."""
    return all(abs(one - other) <= SAME_TOLERANCE * max(one, other) for one, other in zip(first, second, strict=True))


def is_near_trained(here: tuple[float, ...], trained: tuple[float, ...]) -> bool:
    """Whether voxels (z, y, x) are about as large as those that a network was trained on."""
    pairs = zip(here, trained, strict=True)
    return all(abs(one / other - 1) <= TRAINED_TOLERANCE for one, other in pairs)


def lengths(voxel_size_nm: tuple[float, float, float]) -> str:
    """Return a voxel size as errors show it: `30 x 8 x 8`."""
    return " x ".join(f"{length:g}" for length in voxel_size_nm)
