"""The largest legal size whose step fits into a memory: a few steps are counted, a straight line says which."""

from __future__ import annotations

import math
from collections.abc import Callable

from connectomics_zoo.schema.model import SizeRule

LARGEST_EDGE = 1024
"""Edge of the largest size that is tried, in voxels; one legal size may be larger."""

FIRST_EDGE = 64
"""Edge of the smaller of the two sizes that the line goes through at first, in voxels, about."""


def legal_size(rule: SizeRule, edge: int, *, anisotropy: float) -> tuple[int, ...]:
    """Return the largest legal size of at most `edge` voxels, or the smallest one where there is none.

    Args:
        rule: the legal sizes.
        edge: along y and x.
        anisotropy: how many times as thick a section is as a pixel is wide: z is so much shorter.
    """
    sizes = [low + max(0, (edge - low) // step) * step for low, step in zip(rule.minimum, rule.step, strict=True)]
    if len(sizes) == 3:
        low, step = rule.minimum[0], rule.step[0]
        sizes[0] = low + max(0, (int(sizes[1] / anisotropy) - low) // step) * step
    return tuple(sizes)


def largest_size(
    rule: SizeRule, *, anisotropy: float, needs: Callable[[tuple[int, ...]], int], limit: float
) -> tuple[int, ...] | None:
    """Return the largest legal size whose step takes at most `limit` bytes, None where not even the smallest does.

    Args:
        rule: the legal sizes.
        anisotropy: as for `legal_size`.
        needs: counts the bytes of a size.
        limit: bytes that there are.
    """
    sizes = list(dict.fromkeys(legal_size(rule, edge, anisotropy=anisotropy) for edge in range(1, LARGEST_EDGE + 1)))
    known: dict[int, int] = {}
    # All sizes below `low` fit, and none from `high` on does.
    low, high = 0, len(sizes)
    guess = next((index for index, size in enumerate(sizes) if max(size) >= FIRST_EDGE), len(sizes) - 1)
    while low < high:
        known[guess] = needs(sizes[guess])
        if known[guess] <= limit:
            low = guess + 1
        else:
            high = guess
        guess = min(max(_by_line(known, sizes, limit), low), high - 1)
    return sizes[low - 1] if low else None


def _by_line(known: dict[int, int], sizes: list[tuple[int, ...]], limit: float) -> int:
    """Return which size is the last that fits, or the first that does not where that one is known to fit."""
    nearest = sorted(known, key=lambda index: abs(known[index] - limit))[:2]
    if len(nearest) < 2:
        return 2 * nearest[0] + 1 if known[nearest[0]] <= limit else nearest[0] // 2
    (first, bytes_first), (second, bytes_second) = ((index, known[index]) for index in sorted(nearest))
    slope = (bytes_second - bytes_first) / (math.prod(sizes[second]) - math.prod(sizes[first]))
    voxels = math.prod(sizes[first]) + (limit - bytes_first) / slope if slope > 0 else math.inf
    last = sum(math.prod(size) <= voxels for size in sizes) - 1
    return last + 1 if known.get(last, limit + 1) <= limit else last
