"""What is predicted when: columns that fit into the memory, and the rows that each plane of windows completes.

A column is predicted from its first section to its last, one plane of windows after the other. In memory are the
scaled image under the current plane and the sums of the rows that are not complete yet, so the need does not grow
with the number of sections. In bytes, for a column of `height` x `width` network voxels, at most

    4 * (channels_in * window_z * (height + 2 * window_y) * (width + 2 * window_x)
         + channels_out * (window_z + chunk_z / factor_z + 2) * height * width)

and a column is made as large as `MEMORY_BUDGET` allows, but never smaller than a chunk of the output. The network
itself and `STRIP_VOXELS` float32 voxels at a time, on reading and on writing, come on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from connectomics_zoo.predict.grid import AxisGrid
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.resample import Factors, complete_voxels, network_range

MEMORY_BUDGET = 2 * 2**30
"""Bytes for image and sums of one column."""

STRIP_VOXELS = 2**24
"""Voxels that are read, or interpolated and written, at a time."""

CHUNK_EDGE = 128
"""Edge of the output's chunks along y and x, in voxels."""


@dataclass(frozen=True)
class Geometry:
    """The volume, its windows, and the part of it that is predicted."""

    shape: tuple[int, int, int]
    """Voxels of the volume (z, y, x)."""
    factors: Factors
    """Volume voxels per network voxel (z, y, x)."""
    grids: tuple[AxisGrid, AxisGrid, AxisGrid]
    """The windows along z, y and x, in network voxels."""
    box: Box
    """What is predicted, in voxels of the volume."""

    def network_box(self, box: Box) -> Box:
        """Return the network voxels that the volume's voxels in `box` follow from."""
        return Box.of_ranges(
            network_range(first, stop, factor=factor, size=grid.size)
            for (first, stop), factor, grid in zip(box.ranges, self.factors, self.grids, strict=True)
        )

    def window_box(self, corner: tuple[int, int, int]) -> Box:
        """Return what lies in the volume of the window whose first network voxel is `corner`."""
        return Box.of_ranges(grid.inside(start) for grid, start in zip(self.grids, corner, strict=True))


def make_geometry(
    *, shape: tuple[int, int, int], factors: Factors, window: tuple[int, int, int], overlap: float, box: Box
) -> Geometry:
    """Return the geometry of a prediction; `window` is in network voxels (z, y, x)."""
    z, y, x = (
        AxisGrid(size=-(-size // factor), window=edge, overlap=overlap)
        for size, factor, edge in zip(shape, factors, window, strict=True)
    )
    return Geometry(shape=shape, factors=factors, grids=(z, y, x), box=box)


class Plane(NamedTuple):
    """The windows that start at one section, and the rows that are complete after them."""

    start: int
    """First network row of the windows."""
    base: int
    """First network row that is still needed before this plane."""
    rows: tuple[int, int]
    """Sections [first, stop) of the volume that are complete after this plane and were not before; may be empty."""


def chunk_shape(geometry: Geometry) -> tuple[int, int, int]:
    """Return the output's chunks (z, y, x): along z what a plane of windows completes, within 8..64 sections."""
    depth = min(64, max(8, geometry.grids[0].step * geometry.factors[0]))
    z, y, x = geometry.box.shape
    return (min(depth, z), min(CHUNK_EDGE, y), min(CHUNK_EDGE, x))


def plan_planes(geometry: Geometry, *, chunk: int) -> list[Plane]:
    """Return the planes of windows along z; complete sections are handed out in whole chunks."""
    grid, factor = geometry.grids[0], geometry.factors[0]
    first, last = geometry.box.ranges[0]
    starts = grid.touching(*geometry.network_box(geometry.box).ranges[0])
    planes = []
    done = first
    for start, following in zip(starts, (*starts[1:], None), strict=True):
        base = geometry.network_box(geometry.box.replace(z=(done, last))).start[0]
        if following is None:
            stop = last
        else:
            complete = complete_voxels(following, factor=factor, network_size=grid.size, size=geometry.shape[0])
            stop = max(done, complete - (complete - first) % chunk)
        planes.append(Plane(start, base, (done, stop)))
        done = stop
    return planes


def rows_in_memory(geometry: Geometry, planes: list[Plane]) -> int:
    """Return how many network rows of sums must be kept at most."""
    stop = geometry.network_box(geometry.box).stop[0]
    return max(min(stop, plane.start + geometry.grids[0].window) - plane.base for plane in planes)


def column_bytes(geometry: Geometry, *, rows: int, height: int, width: int, channels_in: int, channels_out: int) -> int:
    """Return the bytes that image and sums of a column of `height` x `width` volume voxels take at most."""
    sums = channels_out * rows
    image = channels_in * geometry.grids[0].window
    for axis, edge in ((1, height), (2, width)):
        grid = geometry.grids[axis]
        network = min(grid.size, -(-edge // geometry.factors[axis]) + 2)
        sums *= network
        image *= min(grid.size, network + 2 * (grid.window - 1))
    return 4 * (sums + image)


def split_columns(geometry: Geometry, *, rows: int, channels_in: int, channels_out: int, budget: int) -> list[Box]:
    """Return the columns, in voxels of the volume, that fit into `budget` bytes; cuts lie between chunks."""
    box = geometry.box
    depth, height, width = box.shape
    parts_y = parts_x = 1
    while max(height, width) > CHUNK_EDGE:
        need = column_bytes(
            geometry, rows=rows, height=height, width=width, channels_in=channels_in, channels_out=channels_out
        )
        if need <= budget:
            break
        if height >= width:
            parts_y += 1
            height = _chunked(box.shape[1] / parts_y)
        else:
            parts_x += 1
            width = _chunked(box.shape[2] / parts_x)
    return [
        Box.of_shape((depth, height, width), start=(box.start[0], top, left)).intersection(box)
        for top in range(box.start[1], box.stop[1], height)
        for left in range(box.start[2], box.stop[2], width)
    ]


def _chunked(edge: float) -> int:
    """The next whole number of chunks."""
    return math.ceil(edge / CHUNK_EDGE) * CHUNK_EDGE
