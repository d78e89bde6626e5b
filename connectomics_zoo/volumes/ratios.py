"""How many volume voxels make one network voxel, and which voxels of the one grid follow from which of the other.

A ratio is exact, a whole number or a fraction of whole numbers, and positions are counted from the first voxel of the
volume: what a voxel is made of does not depend on the part of a volume that is looked at.
"""

from __future__ import annotations

from fractions import Fraction

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.metadata import VoxelSize
from connectomics_zoo.volumes.voxel_size import SAME_TOLERANCE, lengths

Ratio = int | Fraction
"""Voxels of one grid along an edge of a voxel of the other; a whole number is always an `int`."""

Ratios = tuple[Ratio, Ratio, Ratio]
"""Volume voxels per network voxel (z, y, x)."""

LARGEST_RATIO = 64
"""Volume voxels that a network voxel may be long."""

SMALLEST_RATIO = Fraction(1, 8)
"""The least: a network voxel of an eighth of a volume voxel."""

MOST_PARTS = 1000
"""The smaller number of a fraction is at most this, which is nearer to the truth than voxel sizes are known."""


def ratio_between(network_nm: float, volume_nm: float) -> Ratio:
    """Return how many volume voxels a network voxel is long: a whole number where that is less than 1 % away."""
    quotient = network_nm / volume_nm
    whole = round(quotient)
    if whole >= 1 and abs(quotient / whole - 1) <= SAME_TOLERANCE:
        return whole
    return nearest_ratio(quotient)


def ratios_between(network_nm: VoxelSize, volume_nm: VoxelSize, *, location: str) -> Ratios:
    """Return how many voxels of the volume at `location` a network voxel is long along z, y and x.

    Raises:
        VolumeError: the two are so far apart that one of them must be wrong.
    """
    z, y, x = (ratio_between(network, volume) for network, volume in zip(network_nm, volume_nm, strict=True))
    if not all(SMALLEST_RATIO <= ratio <= LARGEST_RATIO for ratio in (z, y, x)):
        raise VolumeError(
            f"{location}: has voxels of {lengths(volume_nm)} nm (z, y, x), which are not resampled to the network's "
            f"{lengths(network_nm)} nm: an edge may be {LARGEST_RATIO} times shorter or {1 / SMALLEST_RATIO} times "
            "longer, correct the one that is wrong."
        )
    return z, y, x


def nearest_ratio(quotient: float) -> Ratio:
    """Return the ratio of small numbers that is nearest to a quotient."""
    if quotient > 1:
        ratio = Fraction(quotient).limit_denominator(MOST_PARTS)
    else:
        ratio = 1 / Fraction(1 / quotient).limit_denominator(MOST_PARTS)
    return ratio.numerator if ratio.denominator == 1 else ratio


def are_whole(ratios: Ratios) -> bool:
    """Whether every network voxel is a block of whole volume voxels."""
    return all(isinstance(ratio, int) for ratio in ratios)


def lower_neighbour(target: int, factor: Ratio) -> int:
    """Return the source voxel at or before the centre of a `target` along one axis (-1 before the first).

    With `factor` targets per source, the centre of source n lies at (n + 0.5) * factor - 0.5, in targets.
    """
    return target if factor == 1 else (2 * target + 1 - factor) // (2 * factor)


def source_range(first: int, stop: int, *, ratio: Ratio, size: int, low: int = 0) -> tuple[int, int]:
    """Return the source voxels [first, stop) that the targets [first, stop) along an axis are made of.

    Of finer sources these are the ones that the targets cover, of coarser ones those that they lie between.

    Args:
        first: first target.
        stop: one past the last target.
        ratio: sources per target.
        size: one past the last source that there is.
        low: the first source that there is.
    """
    if ratio == 1:
        return max(low, first), min(size, stop)
    if ratio > 1:
        return max(low, first * ratio // 1), min(size, -(-stop * ratio // 1))
    factor = 1 / Fraction(ratio)
    # The last source stands in for what lies beyond it, and the first one for what lies before.
    start = min(max(low, lower_neighbour(first, factor)), size - 1)
    return start, max(start + 1, min(size, lower_neighbour(stop - 1, factor) + 2))


def network_range(first: int, stop: int, *, factor: Ratio, size: int) -> tuple[int, int]:
    """Return the network voxels [first, stop) that the volume's voxels [first, stop) follow from.

    Args:
        first: first voxel of the volume.
        stop: one past its last voxel.
        factor: volume voxels per network voxel.
        size: network voxels along the axis.
    """
    if factor == 1:
        return first, stop
    if factor < 1:
        return source_range(first, stop, ratio=1 / Fraction(factor), size=size)
    return max(0, lower_neighbour(first, factor)), min(size, lower_neighbour(stop - 1, factor) + 2)


def complete_voxels(network_stop: int, *, factor: Ratio, network_size: int, size: int) -> int:
    """Return how many of the volume's voxels follow from the network voxels [0, network_stop) alone."""
    if network_stop >= network_size:
        return size
    if factor == 1:
        return network_stop
    if factor < 1:
        return network_stop * factor // 1
    return max(0, -(-((2 * network_stop - 1) * factor - 1) // 2))
