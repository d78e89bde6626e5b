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
from scipy import ndimage

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


def boxes_around(labels: NDArray[np.uint32], *, start: tuple[int, int, int]) -> Parts:
    """Return the boxes around the labels 1..N of a block whose first voxel is `start`."""
    found = ndimage.find_objects(labels.astype(np.int32))
    edges = np.array([[(part.start, part.stop) for part in box] for box in found], np.int64).reshape(-1, 3, 2)
    corner = np.array(start, np.int64)
    return Parts(edges[:, :, 0] + corner, edges[:, :, 1] + corner)


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


def batches(parts: Parts, *, block: Box) -> list[tuple[Box, list[int]]]:
    """Return which parts are flooded at once, and the box around each such batch.

    Those within the block are, and of those that cross its faces, as many in turn as a box of its size has; a part
    that is larger is one alone.
    """
    found: list[tuple[Box, list[int]]] = []
    boxes = [parts.box(part) for part in range(len(parts))]
    for part in sorted(range(len(parts)), key=lambda part: not block.contains(boxes[part])):
        both = _around(found[-1][0], boxes[part]) if found else None
        if both is not None and both.voxels <= block.voxels:
            found[-1] = (both, [*found[-1][1], part])
        else:
            found.append((boxes[part], [part]))
    return found


def _around(first: Box, second: Box) -> Box:
    pairs = zip(first.ranges, second.ranges, strict=True)
    return Box.of_ranges((min(low, other), max(stop, end)) for (low, stop), (other, end) in pairs)
