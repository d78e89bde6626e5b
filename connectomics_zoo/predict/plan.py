"""What is predicted when: blocks that fit into the memory, and the rows that each plane of windows completes.

A block is predicted from its first section to its last, one plane of windows after the other. In memory are the scaled
image under the current plane and the rows that the next one needs, the sums of the rows that are not complete yet, and
the finished rows of a shard, so the need does not grow with the number of sections. In bytes, for a block of `height` x
`width` network voxels, at most

    4 * (2 * channels_in * seen_z * (height + 2 * seen_y) * (width + 2 * seen_x)
         + channels_out * (window_z + chunk_z / factor_z + 2) * height * width)
    + 2 * channels_out * bytes_of_a_value * shard_z * height * width * factor_y * factor_x

where a window is what the network gives, and `seen` what it is given for it: larger by its context on each side. A
block is made no larger than `MEMORY_BUDGET` allows, but never smaller than a chunk of the output. The network
itself and `STRIP_VOXELS` float32 voxels at a time, on reading and on writing, come on top.

Blocks are whole shards of the output. Windows that reach over the face of a block are predicted in both, so larger
blocks cost less time, and smaller ones lose less when one is killed: `BLOCK_WINDOWS` says which are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.predict.grid import AxisGrid
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.network_grid import NetworkGrid
from connectomics_zoo.volumes.ratios import Ratios, complete_voxels, network_range

MEMORY_BUDGET = 4 * 2**30
"""Bytes for image, sums and finished rows of one block."""

STRIP_VOXELS = 2**24
"""Voxels that are read, or interpolated and written, at a time."""

CHUNK_EDGE = 128
"""Edge of the output's chunks along y and x, in voxels."""

SHARD_EDGES = (128, 512, 512)
"""Edges (z, y, x) of the output's shards, in voxels, about."""

ENOUGH = 1.25
"""Of the windows that the volume has, how many times as many blocks may take before lower shards are tried."""

BLOCK_WINDOWS = 8192
"""Windows of a block, about: minutes of work, on a GPU or a CPU."""


@dataclass(frozen=True)
class Geometry:
    """The volume, its windows, and the part of it that is predicted."""

    shape: tuple[int, int, int]
    """Voxels of the volume (z, y, x)."""
    factors: Ratios
    """Volume voxels per network voxel (z, y, x), any ratio."""
    grids: tuple[AxisGrid, AxisGrid, AxisGrid]
    """The windows along z, y and x, in network voxels."""
    box: Box
    """What is predicted, in voxels of the volume."""
    context: Edges = (0, 0, 0)
    """Network voxels (z, y, x) that the network sees around a window on each side and says nothing of."""

    @property
    def voxels(self) -> NetworkGrid:
        """What the network voxels are made of."""
        return NetworkGrid(self.shape, self.factors)

    def network_box(self, box: Box) -> Box:
        """Return the network voxels that the volume's voxels in `box` follow from."""
        return Box.of_ranges(
            network_range(first, stop, factor=factor, size=grid.size)
            for (first, stop), factor, grid in zip(box.ranges, self.factors, self.grids, strict=True)
        )

    def covered(self, box: Box) -> Box:
        """Return the volume's voxels that the network voxels in `box` cover, in whole or in part; some may be none."""
        return Box.of_ranges(
            (first * factor // 1, -(-stop * factor // 1))
            for (first, stop), factor in zip(box.ranges, self.factors, strict=True)
        )

    def window_box(self, corner: tuple[int, int, int]) -> Box:
        """Return what lies in the volume of the window whose first network voxel is `corner`."""
        return Box.of_ranges(grid.inside(start) for grid, start in zip(self.grids, corner, strict=True))

    @property
    def seen(self) -> Edges:
        """Network voxels (z, y, x) that the network is given for a window."""
        z, y, x = (grid.window + 2 * more for grid, more in zip(self.grids, self.context, strict=True))
        return z, y, x

    def seen_box(self, corner: tuple[int, int, int]) -> Box:
        """Return what lies in the volume of what the network is given for the window at `corner`."""
        return Box.of_ranges(
            (max(0, start - more), min(grid.size, start + grid.window + more))
            for grid, start, more in zip(self.grids, corner, self.context, strict=True)
        )


def make_geometry(
    *,
    shape: Edges,
    factors: Ratios,
    window: Edges,
    overlap: float,
    box: Box,
    context: Edges = (0, 0, 0),
) -> Geometry:
    """Return the geometry of a prediction; `window` and `context` are in network voxels (z, y, x).

    Args:
        shape: voxels of the volume.
        factors: volume voxels per network voxel.
        window: what the network is given.
        overlap: fraction that neighbouring windows share of what the network gives.
        box: what is predicted, in voxels of the volume.
        context: of what it is given, the voxels on each side of which it says nothing.
    """
    z, y, x = (
        AxisGrid(size=-(-size // factor), window=edge - 2 * more, overlap=overlap)
        for size, factor, edge, more in zip(shape, factors, window, context, strict=True)
    )
    return Geometry(shape=shape, factors=factors, grids=(z, y, x), box=box, context=context)


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
    depth = int(min(64, max(8, geometry.grids[0].step * geometry.factors[0])))
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


@dataclass(frozen=True)
class Cutting:
    """How an output is cut: each is whole pieces of the one before it, all (z, y, x) in voxels of the volume."""

    chunks: Edges
    """What is compressed, and read, as a whole."""
    shards: Edges
    """What is a file."""
    block: Edges
    """What is predicted as a whole."""


def block_bytes(
    geometry: Geometry, *, block: Edges, shard_depth: int, channels_in: int, channels_out: int, value_bytes: int
) -> int:
    """Return the bytes that a block takes at most."""
    grid, factor = geometry.grids[0], geometry.factors[0]
    sums = channels_out * min(grid.size, grid.window + -(-chunk_shape(geometry)[0] // factor) + 2)
    image = 2 * channels_in * geometry.seen[0]
    for axis in (1, 2):
        grid = geometry.grids[axis]
        network = min(grid.size, -(-block[axis] // geometry.factors[axis]) + 2)
        sums *= network
        image *= min(grid.size, network + 2 * (grid.window - 1 + geometry.context[axis]))
    return 4 * (sums + image) + 2 * value_bytes * channels_out * shard_depth * block[1] * block[2]


def cut(
    geometry: Geometry,
    *,
    channels_in: int,
    channels_out: int,
    value_bytes: int,
    workers: int = 1,
    budget: int | None = None,
) -> Cutting:
    """Return how the output is cut.

    Args:
        geometry: the volume, its windows and the part of it that is predicted.
        channels_in: channels of the image.
        channels_out: channels that the network gives.
        value_bytes: bytes of a value of the output.
        workers: how many work on blocks at the same time.
        budget: bytes that a block may take; by default `MEMORY_BUDGET`.
    """
    limit = MEMORY_BUDGET if budget is None else budget
    chunks = chunk_shape(geometry)
    targets = [BLOCK_WINDOWS]
    if workers > 1:
        # More blocks keep all busy until the end, and more windows are computed twice: what ends first is taken.
        whole = _windows(geometry, geometry.box.shape)
        targets += [max(1, min(BLOCK_WINDOWS, whole // (workers * share))) for share in (1, 2, 4)]
    best: tuple[float, Cutting] | None = None
    for target in targets:
        cutting, windows = _cut_for(
            geometry,
            chunks,
            target=target,
            need=partial(
                block_bytes, geometry, channels_in=channels_in, channels_out=channels_out, value_bytes=value_bytes
            ),
            limit=limit,
        )
        blocks = len(BlockGrid(geometry.box, cutting.block))
        longest = -(-blocks // workers) * windows / blocks
        if best is None or longest < best[0]:
            best = longest, cutting
    assert best is not None
    return best[1]


def _cut_for(
    geometry: Geometry, chunks: Edges, *, target: int, need: Callable[..., int], limit: int
) -> tuple[Cutting, int]:
    """Return the cut into blocks of about `target` windows and at most `limit` bytes, and how many windows all need."""
    once = count_windows(geometry, geometry.box)
    best: tuple[int, Cutting] | None = None
    # Low shards take less memory, which leaves it to larger blocks.
    for depth in _halves(SHARD_EDGES[0] // chunks[0]):

        def fits(block: Edges, shard_depth: int = depth * chunks[0]) -> bool:
            return need(block=block, shard_depth=shard_depth) <= limit

        cutting = _cut(geometry, chunks, depth=depth, target=target, fits=fits)
        windows = windows_of_blocks(geometry, BlockGrid(geometry.box, cutting.block))
        if best is None or windows < best[0]:
            best = windows, cutting
        if windows <= ENOUGH * once:
            break
    assert best is not None
    return best[1], best[0]


def _halves(count: int) -> Iterator[int]:
    """Yield a number, its half, and so on, down to 1."""
    count = max(1, count)
    while count > 1:
        yield count
        count //= 2
    yield 1


def _cut(geometry: Geometry, chunks: Edges, *, depth: int, target: int, fits: Callable[[Edges], bool]) -> Cutting:
    """Return the cut into shards of at most `depth` chunks along z, and blocks of about `target` windows."""
    whole = [-(-size // edge) for size, edge in zip(geometry.box.shape, chunks, strict=True)]  # in chunks
    most = [depth, SHARD_EDGES[1] // chunks[1], SHARD_EDGES[2] // chunks[2]]
    shards = [edge * max(1, min(count, limit)) for edge, count, limit in zip(chunks, whole, most, strict=True)]
    while (not fits(_edges(shards)) or _windows(geometry, shards) > target) and shards != list(chunks):
        # The edge that has most chunks, and of those the first.
        axis = max(range(3), key=lambda axis: shards[axis] // chunks[axis])
        shards[axis] = chunks[axis] * (-(-shards[axis] // chunks[axis]) // 2)
    block = list(shards)
    growing = {0, 1, 2}
    while growing := {axis for axis in growing if block[axis] < geometry.box.shape[axis]}:
        axis = min(growing, key=lambda axis: block[axis] / _stride(geometry, axis))
        larger = [edge + shards[axis] * (index == axis) for index, edge in enumerate(block)]
        if not fits(_edges(larger)):
            growing.discard(axis)
        elif _windows(geometry, larger) > target:
            break
        else:
            block = larger
    return Cutting(chunks, _edges(shards), _edges(block))


def count_windows(geometry: Geometry, box: Box) -> int:
    """Return how many windows have a voxel of `box`, which is in voxels of the volume."""
    ranges = geometry.network_box(box).ranges
    return math.prod(len(grid.touching(*limits)) for grid, limits in zip(geometry.grids, ranges, strict=True))


def windows_of_blocks(geometry: Geometry, blocks: BlockGrid) -> int:
    """Return how many windows all blocks need together."""
    total = 1
    for axis, grid in enumerate(geometry.grids):
        first, stop = blocks.box.ranges[axis]
        edges = range(first, stop, blocks.edges[axis])
        parts = (
            network_range(start, min(start + blocks.edges[axis], stop), factor=geometry.factors[axis], size=grid.size)
            for start in edges
        )
        total *= sum(len(grid.touching(*part)) for part in parts)
    return total


def _windows(geometry: Geometry, edges: Sequence[int]) -> int:
    """Return about how many windows a block has."""
    return math.prod(1 + int(edge / _stride(geometry, axis)) for axis, edge in enumerate(edges))


def _stride(geometry: Geometry, axis: int) -> float:
    """Return the voxels of the volume from one window to the next."""
    return float(geometry.grids[axis].step * geometry.factors[axis])


def _edges(edges: Sequence[int]) -> Edges:
    z, y, x = edges
    return z, y, x
