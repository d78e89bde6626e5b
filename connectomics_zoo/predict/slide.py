"""Slides the windows of one block through a volume and hands out each voxel once, when all its windows are done.

What a voxel gets is the sum of what its windows give, in the order of the windows in the whole volume, with shares
that follow from the whole volume's grid: it does not depend on the block that it is predicted in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from connectomics_zoo.predict.ahead import ahead
from connectomics_zoo.predict.plan import CHUNK_EDGE, STRIP_VOXELS, Geometry, Plane, plan_planes, rows_in_memory
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.network_grid import to_volume

Array = NDArray[np.float32]

Forward = Callable[[Tensor], Tensor]
"""From scaled windows (B, C, Z, Y, X) to the values of the output channels (B, K, Z, Y, X), float32 on the CPU.

The windows' memory is used again for the next ones.
"""

Corner = tuple[int, int, int]
"""First voxel (z, y, x) of a window, in network voxels."""


class WindowSource(Protocol):
    """What an opened volume gives: a block (Z, Y, X) or (C, Z, Y, X) of voxels."""

    def read(self, box: Box) -> NDArray[Any]: ...


class Finished(NamedTuple):
    """A block of the output whose windows are all done."""

    box: Box
    """In voxels of the volume."""
    values: Array
    """(K, Z, Y, X)."""


class _RollingRows:
    """Values (C, Z, Y, X) at the network voxels of a box that moves along z."""

    def __init__(self, channels: int, box: Box) -> None:
        self.values: Array = np.zeros((channels, *box.shape), dtype=np.float32)
        self.box = box

    def move_to(self, base: int) -> None:
        """Forget the rows before `base`; the rows that come in are zero."""
        shift, depth = base - self.box.start[0], self.box.shape[0]
        if shift == 0:
            return
        # Row by row, because numpy copies the whole of an array that it assigns to itself.
        for row in range(depth - shift):
            self.values[:, row] = self.values[:, row + shift]
        self.values[:, max(0, depth - shift) :] = 0
        self.box = self.box.moved((shift, 0, 0))

    def view(self, box: Box) -> Array:
        """Return the part at these network voxels, without a copy."""
        z, y, x = box.relative_to(self.box.start).slices
        return self.values[:, z, y, x]


def predict_block(
    source: WindowSource,
    forward: Forward,
    *,
    geometry: Geometry,
    chunk: int,
    scale: Callable[[NDArray[Any]], Array],
    channels_in: int,
    channels_out: int,
    batch_size: int,
    advance: Callable[[int], None],
    mask: WindowSource | None = None,
) -> Iterator[Finished]:
    """Predict the voxels of `geometry.box`; the rows of the next plane are read while the network is at work.

    Args:
        source: the volume.
        forward: the network with its activations.
        geometry: the volume, its windows, and the block.
        chunk: complete sections are handed out in whole chunks of so many.
        scale: from grey values to 0..1.
        channels_in: channels of the image.
        channels_out: channels of the output.
        batch_size: windows that the network gets at a time.
        advance: is told the number of windows done.
        mask: what is as large as the volume, and 0 where it is not looked at: windows without another voxel are left
            out, and what is handed out there means nothing.
    """
    block = geometry.box
    planes = plan_planes(geometry, chunk=chunk)
    needed = geometry.network_box(block)
    starts = [geometry.grids[axis].touching(*needed.ranges[axis]) for axis in (1, 2)]
    places = list(itertools.product(starts[0], starts[1]))
    seen = [_seen_of(plane, places, geometry=geometry) for plane in planes]
    depth = max(box.shape[0] for box in seen)
    image = _RollingRows(channels_in, seen[0].replace(z=(seen[0].start[0], seen[0].start[0] + depth)))
    kept = (planes[0].base, planes[0].base + rows_in_memory(geometry, planes))
    sums = _RollingRows(channels_out, needed.replace(z=kept))
    windows = torch.empty(min(batch_size, len(places)), channels_in, *geometry.seen)
    boxes = list(_fresh_boxes(seen))
    read = partial(_read_rows, source=source, geometry=geometry, scale=scale, channels=channels_in)
    with closing(ahead(map(read, boxes))) as rows:
        for plane, whole, box, fresh in zip(planes, seen, boxes, rows, strict=True):
            image.move_to(whole.start[0])
            image.view(box)[...] = fresh
            sums.move_to(plane.base)
            corners = [(plane.start, y, x) for y, x in places]
            looked_at = _looked_at(corners, geometry=geometry, mask=mask)
            if len(looked_at) < len(corners):
                advance(len(corners) - len(looked_at))
            for batch in _batches(looked_at, size=batch_size):
                _predict_batch(image, sums, batch, forward=forward, windows=windows, geometry=geometry, needed=needed)
                advance(len(batch))
            yield from _finish(sums, block.replace(z=plane.rows), geometry=geometry)


def read_window(
    source: WindowSource,
    corner: Corner,
    *,
    geometry: Geometry,
    scale: Callable[[NDArray[Any]], Array],
    channels: int,
) -> Tensor:
    """Return the window (C, Z, Y, X) at `corner` as the network gets it; for the arguments see `predict_block`."""
    box = geometry.seen_box(corner)
    image = _RollingRows(channels, box)
    image.values[...] = _read_rows(box, source=source, geometry=geometry, scale=scale, channels=channels)
    window = torch.empty(channels, *geometry.seen)
    _gather(image, corner, into=window, geometry=geometry)
    return window


def _seen_of(plane: Plane, places: list[tuple[int, int]], *, geometry: Geometry) -> Box:
    """Return the network voxels that the windows of a plane at `places` (y, x) are made of."""
    first, last = (geometry.seen_box((plane.start, y, x)) for y, x in (places[0], places[-1]))
    return Box(first.start, last.stop)


def _fresh_boxes(seen: list[Box]) -> Iterator[Box]:
    """Yield the network voxels that each plane's windows need and those before did not."""
    filled = seen[0].start[0]
    for box in seen:
        first, stop = box.ranges[0]
        yield box.replace(z=(min(max(filled, first), stop), stop))
        filled = max(filled, stop)


def _looked_at(corners: list[Corner], *, geometry: Geometry, mask: WindowSource | None) -> list[Corner]:
    """Return the windows that have a voxel of the block where the mask is not 0."""
    if mask is None:
        return corners
    whole = Box.of_shape(geometry.shape)
    # The network's voxels are interpolated: one voxel more on each side has a part in those of the volume.
    boxes = [geometry.covered(_widened(geometry.window_box(corner))) for corner in corners]
    parts = [box.intersection(whole).intersection(geometry.box) for box in boxes]
    around = Box.of_ranges(
        (min(part.start[axis] for part in parts), max(part.stop[axis] for part in parts)) for axis in range(3)
    )
    values = _plain(mask.read(around)) != 0
    pairs = zip(corners, parts, strict=True)
    return [corner for corner, part in pairs if values[part.relative_to(around.start).slices].any()]


def _widened(box: Box) -> Box:
    return Box.of_ranges((max(0, first - 1), stop + 1) for first, stop in box.ranges)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return (Z, Y, X) of what may have one channel."""
    return values[0] if values.ndim == 4 else values


def _batches(corners: list[Corner], *, size: int) -> Iterator[list[Corner]]:
    for first in range(0, len(corners), size):
        yield corners[first : first + size]


def _predict_batch(
    image: _RollingRows,
    sums: _RollingRows,
    corners: list[Corner],
    *,
    forward: Forward,
    windows: Tensor,
    geometry: Geometry,
    needed: Box,
) -> None:
    """Predict the windows at `corners`, gathered in the memory `windows`, and add what they give to `sums`."""
    batch = windows[: len(corners)]
    for window, corner in zip(batch, corners, strict=True):
        _gather(image, corner, into=window, geometry=geometry)
    for value, corner in zip(forward(batch), corners, strict=True):
        _add(sums, value, corner, geometry=geometry, needed=needed)


def _read_rows(
    box: Box,
    *,
    source: WindowSource,
    geometry: Geometry,
    scale: Callable[[NDArray[Any]], Array],
    channels: int,
) -> Array:
    """Read, scale and resample the network voxels of `box`, a strip of `STRIP_VOXELS` at a time."""
    rows = np.empty((channels, *box.shape), dtype=np.float32)
    if box.voxels == 0:
        return rows
    voxels = geometry.voxels
    depth, _, width = voxels.volume_box(box).shape
    # A row of network voxels, and what it is read from.
    per_row = channels * max(depth * width * geometry.factors[1], box.shape[0] * box.shape[2])
    for strip in _strips(box, step=max(1, int(STRIP_VOXELS // per_row))):
        block = source.read(voxels.volume_box(strip))
        scaled = scale(block if block.ndim == 4 else block[np.newaxis])
        z, y, x = strip.relative_to(box.start).slices
        rows[:, z, y, x] = voxels.image(scaled, strip)
    return rows


def _strips(box: Box, *, step: int) -> Iterator[Box]:
    """Yield the parts of `box` that are `step` voxels high."""
    for top in range(box.start[1], box.stop[1], step):
        yield box.replace(y=(top, min(top + step, box.stop[1])))


def _gather(image: _RollingRows, corner: Corner, *, into: Tensor, geometry: Geometry) -> None:
    """Copy the window (C, Z, Y, X) at `corner`, continued by reflection where it reaches beyond the volume."""
    box = geometry.seen_box(corner)
    inside = image.view(box)
    missing = [
        (first - (start - more), start - more + edge - stop)
        for (first, stop), start, more, edge in zip(box.ranges, corner, geometry.context, geometry.seen, strict=True)
    ]
    if any(map(any, missing)):
        inside = np.pad(inside, [(0, 0), *missing], mode="reflect")
    into.copy_(torch.from_numpy(inside))


def _add(sums: _RollingRows, value: Tensor, corner: Corner, *, geometry: Geometry, needed: Box) -> None:
    """Add the window's values (K, Z, Y, X), times its shares, to those of its voxels that are needed."""
    part = geometry.window_box(corner).intersection(needed)
    shares = [
        torch.from_numpy(grid.weights(start, first=first, stop=stop))
        for grid, start, (first, stop) in zip(geometry.grids, corner, part.ranges, strict=True)
    ]
    share = shares[0][:, None, None] * shares[1][:, None] * shares[2]
    z, y, x = part.relative_to(corner).slices
    target = torch.from_numpy(sums.view(part))
    target.addcmul_(value[:, z, y, x], share)


def _finish(sums: _RollingRows, box: Box, *, geometry: Geometry) -> Iterator[Finished]:
    """Resample the complete sections of `box` to the volume's voxels, a strip of `STRIP_VOXELS` at a time."""
    if box.voxels == 0:
        return
    depth, _, width = box.shape
    finer = math.prod(max(1, 1 / factor) for factor in geometry.factors)  # network voxels of which one is made
    step = max(1, int(STRIP_VOXELS / (len(sums.values) * depth * width * finer)))
    if step >= CHUNK_EDGE:
        step -= step % CHUNK_EDGE
    for strip in _strips(box, step=step):
        network = geometry.network_box(strip)
        values = sums.view(network)
        for axis, (first, stop) in enumerate(strip.ranges):
            values = to_volume(
                values,
                axis=axis + 1,
                first=first,
                stop=stop,
                ratio=geometry.factors[axis],
                offset=network.start[axis],
                size=geometry.grids[axis].size,
            )
        yield Finished(strip, values)
