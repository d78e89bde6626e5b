"""The watershed in blocks: each connected part of the foreground is flooded alone, which does not change the result.

Voxels of different parts never meet: they take turns in the queues of the library, but the order among those of one
part stays. So a part may be cut out, as long as three things are those of the whole volume: the order of its voxels,
which a box keeps; its seeds, which may lie in several parts or reach out of them; and the range of heights, since the
library floods 65536 levels between the lowest and the highest voxel of all parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decode.methods import Flooding
from connectomics_zoo.volumes.box import Box

Levels = tuple[float, float]
"""The lowest and the highest voxel of the foreground of all that is decoded."""


def flood(
    height: NDArray[np.float32], markers: NDArray[np.uint32], mask: NDArray[np.bool_], levels: Levels
) -> NDArray[np.uint32]:
    """Return the watershed of a part of a volume, whose foreground has the `levels`."""
    from bioimage_cpp.segmentation import watershed

    # Behind the last section, past an empty one: a voxel of each level, which nothing floods.
    more = [(0, 3), (0, 0), (0, 0)]
    height, markers, mask = np.pad(height, more), np.pad(markers, more), np.pad(mask, more)
    for section, level in zip((-2, -1), levels, strict=True):
        height[section, 0, 0] = level
        mask[section, 0, 0] = True
    return np.asarray(watershed(height, markers, mask=mask))[:-3]


@dataclass(frozen=True)
class Parts:
    """Connected parts of the foreground within a block or of the whole, one row each."""

    start: NDArray[np.int64]
    """(N, 3): first voxel (z, y, x) of the box around each."""
    stop: NDArray[np.int64]
    """(N, 3): one past the last."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.start)

    def box(self, part: int) -> Box:
        """Return the box around one."""
        return Box.of_ranges(
            (int(first), int(stop)) for first, stop in zip(self.start[part], self.stop[part], strict=True)
        )


def boxes_around(labels: NDArray[np.uint32], *, count: int, start: tuple[int, int, int]) -> Parts:
    """Return the boxes around the labels 1..`count` of a block whose first voxel is `start`."""
    low = np.full((count + 1, 3), np.iinfo(np.int64).max, np.int64)
    high = np.full((count + 1, 3), -1, np.int64)
    for z, section in enumerate(labels):
        places = np.nonzero(section)
        found = section[places]
        for axis, at in ((0, np.full(found.shape, z)), (1, places[0]), (2, places[1])):
            np.minimum.at(low[:, axis], found, at)
            np.maximum.at(high[:, axis], found, at)
    corner = np.array(start, np.int64)
    return Parts(low[1:] + corner, high[1:] + 1 + corner)


def join_parts(parts: Parts, groups: NDArray[np.int64], *, count: int) -> Parts:
    """Return the boxes around groups 0..`count` - 1 of parts."""
    start = np.full((count, 3), np.iinfo(np.int64).max)
    stop = np.zeros((count, 3), np.int64)
    np.minimum.at(start, groups, parts.start)
    np.maximum.at(stop, groups, parts.stop)
    return Parts(start, stop)


def levels_of(read: Flooding) -> Levels | None:
    """Return the lowest and the highest voxel of the foreground, None where there is none."""
    heights = read.height[read.foreground]
    return (float(heights.min()), float(heights.max())) if heights.size else None


def batches(parts: Parts, *, most: int) -> list[tuple[Box, list[int]]]:
    """Return which parts are flooded at once, and the box around each such batch.

    Args:
        parts: the parts.
        most: voxels of a box; a part that is larger has one of its own.
    """
    found: list[tuple[Box, list[int]]] = []
    for part in range(len(parts)):
        box = parts.box(part)
        if found:
            last, members = found[-1]
            both = _around(last, box)
            if both.voxels <= most:
                found[-1] = (both, [*members, part])
                continue
        found.append((box, [part]))
    return found


def _around(first: Box, second: Box) -> Box:
    pairs = zip(first.ranges, second.ranges, strict=True)
    return Box.of_ranges((min(low, other), max(stop, end)) for (low, stop), (other, end) in pairs)
