"""Depthwise convolutions, statistics and linear maps on one volume (Z, Y, X, C), in parts that fit into caches.

What a convolutional block costs on a CPU is mostly memory traffic: fresh pages for every large tensor, and values
that leave the cache between two operations. So nothing here makes a tensor as large as the volume: convolutions run
on slabs of planes, and the linear maps behind them on some thousand voxels at a time.

"Rows" are tensors (voxels, C). The arithmetic is that of the tensors' type; sums over voxels are accumulated from
short partial sums, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

SLAB_ROWS = 32768
"""Voxels of a slab: with 32 channels in float32, 4 MiB."""

HIDDEN_VALUES = 1 << 19
"""Hidden values (voxels times channels) of a chunk of rows: in float32, 2 MiB."""

SUM_WIDTH = 64
"""Partial sums a channel, which keeps each of them short."""

Size = tuple[int, int, int]
"""An extent or a position (z, y, x)."""


@dataclass(frozen=True)
class Taps:
    """A depthwise correlation: `y[m] = sum over t of x[stride * m - pad + t] * kernel[t]`, zero outside of x."""

    kernel: Tensor
    """(C, 1, n_z, n_y, n_x)."""
    pad: Size
    """Voxels in front of x."""
    stride: int
    """1 or 2."""
    size: Size
    """Extent of y."""


def slabs(size: Size, *, thickest_halo: int) -> list[tuple[int, int]]:
    """Return ranges of planes of about `SLAB_ROWS` voxels, none (but the last) thinner than `thickest_halo`."""
    planes = max(1, thickest_halo, SLAB_ROWS // max(1, size[1] * size[2]))
    return [(start, min(size[0], start + planes)) for start in range(0, size[0], planes)]


def chunks(rows: int, *, hidden: int) -> Iterator[slice]:
    """Yield slices of `rows` of which each has about `HIDDEN_VALUES` values in `hidden` channels."""
    step = max(256, HIDDEN_VALUES // hidden)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def correlate(x: Tensor, taps: Taps, start: int, stop: int, bias: Tensor | None = None) -> Tensor:
    """Return the planes from `start` to `stop` of y, (stop - start, Y', X', C), for x (Z, Y, X, C)."""
    extent = taps.kernel.shape[2:]
    low = taps.stride * start - taps.pad[0]
    high = taps.stride * (stop - 1) - taps.pad[0] + extent[0]
    part = x[max(0, low) : high]
    before, after = [max(0, -low)], [max(0, high - x.shape[0])]
    for axis in (1, 2):
        before.append(taps.pad[axis])
        after.append(taps.stride * (taps.size[axis] - 1) + extent[axis] - taps.pad[axis] - x.shape[axis])
    # A convolution pads both ends of an axis alike. Where that is too much, the first and last values are surplus.
    pad = [max(0, *ends) for ends in zip(before, after, strict=True)]
    if (pad[0] - before[0]) % taps.stride:
        part = F.pad(part, (0, 0, 0, 0, 0, 0, before[0], after[0]))
        before[0] = pad[0] = 0
    image = part.unsqueeze(0).permute(0, 4, 1, 2, 3)  # channels-last to torch, batch stride included
    y = F.conv3d(image, taps.kernel, bias, taps.stride, tuple(pad), 1, taps.kernel.shape[0])
    y = y.permute(0, 2, 3, 4, 1).squeeze(0)
    z0, y0, x0 = ((most - own) // taps.stride for most, own in zip(pad, before, strict=True))
    return y[z0 : z0 + stop - start, y0 : y0 + taps.size[1], x0 : x0 + taps.size[2]].contiguous()


def adjoint(taps: Taps, size: Size) -> Taps:
    """Return the correlation from the gradient of y to that of x, which has `size`, for stride 1."""
    extent = taps.kernel.shape[2:]
    pad = tuple(n - 1 - before for n, before in zip(extent, taps.pad, strict=True))
    return Taps(taps.kernel.flip(2, 3, 4), cast("Size", pad), 1, size)


def kernel_gradient(x: Tensor, gradient: Tensor, taps: Taps) -> Tensor:
    """Return the gradient of the kernel (C, 1, n_z, n_y, n_x) for that of y, (Z', Y', X', C), for stride 1.

    With both volumes padded to one pitch, the voxels that a tap multiplies are two contiguous stretches of memory:
    their product, summed over voxels, is the weight gradient of a batch norm, which does both in one pass.
    """
    channels = x.shape[-1]
    nz, ny, nx = taps.kernel.shape[2:]
    pitch = (taps.size[1] + ny - 1, taps.size[2] + nx - 1)
    sums = x.new_zeros(nz, ny, nx, channels, dtype=accumulator(x.dtype))
    zeros, ones = sums.new_zeros(channels), sums.new_ones(channels)
    for start, stop in slabs(taps.size, thickest_halo=nz - 1):
        planes = stop - start
        padded = x.new_zeros(planes + nz - 1, *pitch, channels)
        _paste(padded, x, (start - taps.pad[0], -taps.pad[1], -taps.pad[2]))
        spread = gradient.new_zeros(planes, *pitch, channels)
        spread[:, : taps.size[1], : taps.size[2]] = gradient[start:stop]
        rows = ((planes - 1) * pitch[0] + taps.size[1] - 1) * pitch[1] + taps.size[2]
        flat, factor = padded.view(-1, channels), _as_image(spread.view(-1, channels)[:rows])
        for z, y, x_tap in product(range(nz), range(ny), range(nx)):
            offset = (z * pitch[0] + y) * pitch[1] + x_tap
            shifted = _as_image(flat[offset : offset + rows])
            sums[z, y, x_tap] += torch.ops.aten.native_batch_norm_backward(
                factor, shifted, ones, zeros, ones, zeros, ones, True, 0.0, [False, True, False]
            )[1]
    return sums.permute(3, 0, 1, 2).unsqueeze(1)


def _paste(target: Tensor, source: Tensor, origin: Size) -> None:
    """Copy the part of `source` that lies in `target`, whose first voxel is the source's `origin`."""
    here, there = [], []
    for first, extent, size in zip(origin, target.shape[:3], source.shape[:3], strict=True):
        low, high = max(0, first), min(size, first + extent)
        here.append(slice(low - first, high - first))
        there.append(slice(low, high))
    target[tuple(here)] = source[tuple(there)]


def _as_image(rows: Tensor) -> Tensor:
    """Rows (V, C) as a channels-last image (1, C, V, 1)."""
    return rows.view(1, rows.shape[0], 1, rows.shape[1]).permute(0, 3, 1, 2)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums, and of parameters, beside values of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Moments:
    """Mean and variance of every channel, from rows that come in parts."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64, device="cpu")
        self.squares = torch.zeros_like(self.mean)

    def add(self, rows: Tensor) -> None:
        """Take in rows (V, C)."""
        count, channels = rows.shape
        tail = count % SUM_WIDTH
        if count > tail:
            running = rows.new_zeros(SUM_WIDTH * channels, dtype=accumulator(rows.dtype))
            # SUM_WIDTH neighbouring voxels count as so many times the channels.
            mean, variance = torch.ops.aten.batch_norm_update_stats(
                _as_image(rows[: count - tail].view(-1, SUM_WIDTH * channels)), running, running, 0.0
            )
            self._merge(
                count // SUM_WIDTH, mean.view(SUM_WIDTH, channels).double(), variance.view(SUM_WIDTH, channels).double()
            )
        if tail:
            last = rows[count - tail :].double()
            self._merge(1, last, torch.zeros_like(last))

    def _merge(self, count: int, means: Tensor, variances: Tensor) -> None:
        """Take in the moments of groups of `count` voxels (groups, C); Chan, Golub and LeVeque, 1979."""
        total = count * means.shape[0]
        mean = means.mean(0)
        squares = count * (variances + (means - mean).square()).sum(0)
        shift = mean - self.mean
        together = self.count + total
        self.squares += squares + shift.square() * (self.count * total / together)
        self.mean += shift * (total / together)
        self.count = together

    def scale(self, eps: float) -> Tensor:
        """Return `1 / sqrt(variance + eps)`, in float64."""
        return (self.squares / self.count + eps).rsqrt()


def _has_onednn(dtype: torch.dtype) -> bool:
    backend: Any = torch.backends.mkldnn
    if not backend.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `rows @ weight.T + bias`; in float32 by oneDNN, which outside of Intel's CPUs is twice as fast as MKL."""
    if rows.dtype == torch.float32 and _has_onednn(rows.dtype):
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "none"))
    return F.linear(rows, weight, bias)


def linear_gelu(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `gelu(rows @ weight.T + bias)`, rounded once."""
    if _has_onednn(rows.dtype):
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "gelu", [], "none"))
    return F.gelu(F.linear(rows, weight, bias))


def linear_add(rows: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """Return `rows @ weight.T + bias + other`, rounded once."""
    if _has_onednn(rows.dtype):
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise.binary(rows, other, weight, bias, "add"))
    return F.linear(rows, weight, bias) + other


def cross(first: Tensor, second: Tensor) -> Tensor:
    """Return `first.T @ second`, (C, K), for rows (V, C) and (V, K)."""
    if first.dtype == torch.float32 and _has_onednn(first.dtype):
        return linear(first.t(), second.t())
    return first.t() @ second


PARITIES: tuple[Size, ...] = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))
"""Even or odd along (z, y, x)."""


def select_taps(edge: int, parity: Size) -> tuple[slice, ...]:
    """Return which taps of kernels (C, 1, edge, edge, edge) link a voxel to those of `parity` on the finer grid."""
    return (slice(None), slice(None), *(slice((edge // 2 + odd) % 2, None, 2) for odd in parity))


def upsampling_taps(kernel: Tensor, parity: Size, size: Size) -> Taps:
    """Return how the transposed convolution of stride 2 makes the voxels of `parity` of its output.

    Output voxel `2q + parity` for the kernel (C, 1, k, k, k) and padding k // 2 is voxel q of the correlation of its
    input, which has `size`, with every other tap, the last one first.
    """
    part = kernel[select_taps(kernel.shape[-1], parity)].flip(2, 3, 4)
    pad = cast("Size", tuple((n - 1) // 2 for n in part.shape[2:]))
    return Taps(part.contiguous(), pad, 1, cast("Size", tuple(n - odd for n, odd in zip(size, parity, strict=True))))


def downsampling_taps(kernel: Tensor, parity: Size, size: Size) -> Taps:
    """Return what the voxels of `parity` of the input add to the convolution of stride 2, whose output has `size`."""
    part = kernel[select_taps(kernel.shape[-1], parity)].contiguous()
    return Taps(part, cast("Size", tuple(n // 2 for n in part.shape[2:])), 1, size)


def of_parity(volume: Tensor, parity: Size) -> Tensor:
    """Return the view (Z', Y', X', C) of the voxels of `volume` at even or odd positions."""
    return volume[parity[0] :: 2, parity[1] :: 2, parity[2] :: 2]
