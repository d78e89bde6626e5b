"""Slides the windows of one column through a volume and hands out each voxel once, when all its windows are done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from connectomics_zoo.predict.plan import CHUNK_EDGE, STRIP_VOXELS, Geometry, Plane, Span, rows_in_memory
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.resample import downsample_image, interpolate

Array = NDArray[np.float32]

Forward = Callable[[Tensor], Tensor]
"""From scaled windows (B, C, Z, Y, X) to the values of the output channels (B, K, Z, Y, X), float32 on the CPU.

The windows' memory is used again for the next ones.
"""

Corner = tuple[int, int, int]
"""First voxel (z, y, x) of a window, in network voxels."""


class Source(Protocol):
    """What an opened volume gives: a block (Z, Y, X) or (C, Z, Y, X) of voxels."""

    def read(self, region: Box) -> NDArray[Any]: ...


class Finished(NamedTuple):
    """A block of the output whose windows are all done."""

    box: Box
    """In voxels of the volume."""
    values: Array
    """(K, Z, Y, X)."""


class _RollingRows:
    """Network rows [base, base + depth) of an array (C, depth, Y, X) that moves along z."""

    def __init__(self, channels: int, depth: int, y: Span, x: Span, *, base: int) -> None:
        self.values: Array = np.zeros((channels, depth, y.size, x.size), dtype=np.float32)
        self.base = base
        self.y = y
        self.x = x

    def move_to(self, base: int) -> None:
        """Forget the rows before `base`; the rows that come in are zero."""
        shift, depth = base - self.base, self.values.shape[1]
        if shift == 0:
            return
        # Row by row, because numpy copies the whole of an array that it assigns to itself.
        for row in range(depth - shift):
            self.values[:, row] = self.values[:, row + shift]
        self.values[:, max(0, depth - shift) :] = 0
        self.base = base

    def view(self, z: Span, y: Span, x: Span) -> Array:
        """Return the part at these network voxels, without a copy."""
        return self.values[
            :,
            z.first - self.base : z.stop - self.base,
            y.first - self.y.first : y.stop - self.y.first,
            x.first - self.x.first : x.stop - self.x.first,
        ]


def predict_column(
    source: Source,
    forward: Forward,
    *,
    geometry: Geometry,
    planes: list[Plane],
    column: tuple[Span, Span],
    scale: Callable[[NDArray[Any]], Array],
    channels_in: int,
    channels_out: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[Finished]:
    """Predict the voxels (y, x) of `column` over all its sections.

    Args:
        source: the volume.
        forward: the network with its activations.
        geometry: the volume and its windows.
        planes: from `plan_planes`.
        column: (y, x) in voxels of the volume.
        scale: from grey values to 0..1.
        channels_in: channels of the image.
        channels_out: channels of the output.
        batch_size: windows that the network gets at a time.
        advance: is told the number of windows done.
    """
    needed = tuple(
        geometry.network_span(axis, span)
        for axis, span in enumerate((Span(geometry.box[0].start, geometry.box[0].stop), *column))
    )
    starts = [geometry.grids[axis].touching(*needed[axis]) for axis in (1, 2)]
    under = [Span(row[0], geometry.grids[axis].inside(row[-1])[1]) for axis, row in zip((1, 2), starts, strict=True)]
    depth = min(geometry.grids[0].window, geometry.grids[0].size)
    image = _RollingRows(channels_in, depth, under[0], under[1], base=planes[0].start)
    sums = _RollingRows(channels_out, rows_in_memory(geometry, planes), needed[1], needed[2], base=planes[0].base)
    places = list(itertools.product(starts[0], starts[1]))
    windows = torch.empty(min(batch_size, len(places)), channels_in, *(grid.window for grid in geometry.grids))
    filled = planes[0].start
    for plane in planes:
        rows = Span(*geometry.grids[0].inside(plane.start))
        image.move_to(plane.start)
        _fill(image, Span(max(filled, plane.start), rows.stop), source=source, geometry=geometry, scale=scale)
        filled = rows.stop
        sums.move_to(plane.base)
        for batch in _batches([(plane.start, y, x) for y, x in places], size=batch_size):
            _predict_batch(image, sums, batch, forward=forward, windows=windows, geometry=geometry, needed=needed)
            advance(len(batch))
        yield from _finish(sums, plane.rows, column=column, geometry=geometry)


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
    needed: tuple[Span, ...],
) -> None:
    """Predict the windows at `corners`, gathered in the memory `windows`, and add what they give to `sums`."""
    batch = windows[: len(corners)]
    for window, corner in zip(batch, corners, strict=True):
        _gather(image, corner, into=window, geometry=geometry)
    for value, corner in zip(forward(batch), corners, strict=True):
        _add(sums, value, corner, geometry=geometry, needed=needed)


def _fill(
    image: _RollingRows,
    rows: Span,
    *,
    source: Source,
    geometry: Geometry,
    scale: Callable[[NDArray[Any]], Array],
) -> None:
    """Read, scale and average the network rows `rows`, a strip of `STRIP_VOXELS` at a time."""
    if rows.size == 0:
        return
    fz, fy, fx = geometry.factors
    shape = geometry.shape
    sections = slice(rows.first * fz, min(rows.stop * fz, shape[0]))
    columns = slice(image.x.first * fx, min(image.x.stop * fx, shape[2]))
    per_row = len(image.values) * (sections.stop - sections.start) * (columns.stop - columns.start) * fy
    step = max(1, STRIP_VOXELS // per_row)
    for top in range(image.y.first, image.y.stop, step):
        y = Span(top, min(top + step, image.y.stop))
        block = source.read((sections, slice(y.first * fy, min(y.stop * fy, shape[1])), columns))
        scaled = scale(block if block.ndim == 4 else block[np.newaxis])
        target = image.view(rows, y, image.x)
        for channel, grey in enumerate(scaled):
            target[channel] = downsample_image(grey, geometry.factors)


def _gather(image: _RollingRows, corner: Corner, *, into: Tensor, geometry: Geometry) -> None:
    """Copy the window (C, Z, Y, X) at `corner`, continued by reflection where it reaches beyond the volume."""
    spans = [Span(*grid.inside(start)) for grid, start in zip(geometry.grids, corner, strict=True)]
    inside = image.view(spans[0], spans[1], spans[2])
    missing = [(0, grid.window - span.size) for grid, span in zip(geometry.grids, spans, strict=True)]
    if any(map(any, missing)):
        inside = np.pad(inside, [(0, 0), *missing], mode="reflect")
    into.copy_(torch.from_numpy(inside))


def _add(
    sums: _RollingRows,
    value: Tensor,
    corner: Corner,
    *,
    geometry: Geometry,
    needed: tuple[Span, ...],
) -> None:
    """Add the window's values (K, Z, Y, X), times its shares, to those of its voxels that are needed."""
    spans, cuts, shares = [], [], []
    for grid, start, need in zip(geometry.grids, corner, needed, strict=True):
        first, stop = grid.inside(start)
        span = Span(max(first, need.first), min(stop, need.stop))
        spans.append(span)
        cuts.append(slice(span.first - start, span.stop - start))
        shares.append(torch.from_numpy(grid.weights(start, first=span.first, stop=span.stop)))
    share = shares[0][:, None, None] * shares[1][:, None] * shares[2]
    target = torch.from_numpy(sums.view(spans[0], spans[1], spans[2]))
    target.addcmul_(value[:, cuts[0], cuts[1], cuts[2]], share)


def _finish(sums: _RollingRows, rows: Span, *, column: tuple[Span, Span], geometry: Geometry) -> Iterator[Finished]:
    """Interpolate the complete sections `rows` to the volume's voxels, a strip of `STRIP_VOXELS` at a time."""
    if rows.size == 0:
        return
    y, x = column
    step = max(1, STRIP_VOXELS // (len(sums.values) * rows.size * x.size))
    if step >= CHUNK_EDGE:
        step -= step % CHUNK_EDGE
    for top in range(y.first, y.stop, step):
        spans = (rows, Span(top, min(top + step, y.stop)), x)
        network = [geometry.network_span(axis, span) for axis, span in enumerate(spans)]
        values = sums.view(network[0], network[1], network[2])
        for axis, span in enumerate(spans):
            values = interpolate(
                values,
                axis=axis + 1,
                first=span.first,
                stop=span.stop,
                factor=geometry.factors[axis],
                offset=network[axis].first,
                size=geometry.grids[axis].size,
            )
        z, yy, xx = (slice(*span) for span in spans)
        yield Finished((z, yy, xx), values)
