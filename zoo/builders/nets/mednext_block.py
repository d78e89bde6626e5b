"""One block of MedNeXt, forward and backward, on one volume (Z, Y, X, C).

A block is one depthwise correlation (or eight, one for each parity of an upsampled grid), the statistics of its
result, and two linear maps. Three things make it fast:

- With channels last, the 1x1x1 convolutions are matrix products.
- The result of the correlation is never stored. It is computed twice, slab by slab: once for the statistics, once
  for what follows. Slabs stay in the cache, and the second time the correlation's bias makes them zero-centred.
- The norm is folded into the first linear map, of which only scale and shift depend on the statistics.

For the backward pass a block keeps its input alone and computes the rest again, which is less work than writing and
reading it. The bias of the first convolution has no effect before a norm over space: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.builders.nets import channels_last as cl
from zoo.builders.nets.channels_last import PARITIES, Moments, Size, Taps


@dataclass(frozen=True)
class Part:
    """One correlation of a block, and where its voxels lie in the block's output."""

    taps: Taps
    parity: Size = (0, 0, 0)
    """Which voxels of an upsampled grid they are."""
    first: Size = (0, 0, 0)
    """Position of the first of them."""
    step: int = 1
    """From one to the next."""

    def view(self, volume: Tensor, start: int, stop: int) -> Tensor:
        """Return the view (stop - start, Y', X', C) of the planes from `start` to `stop` in `volume`."""
        z = slice(self.first[0] + self.step * start, self.first[0] + self.step * (stop - 1) + 1, self.step)
        return volume[z, self.first[1] :: self.step, self.first[2] :: self.step]


def _parts(kernel: Tensor, resample: str, size: Size) -> list[Part]:
    """The correlations of a block of `kernel` (C, 1, k, k, k) whose input has `size`."""
    pad = (kernel.shape[-1] // 2,) * 3
    if resample == "none":
        return [Part(Taps(kernel, pad, 1, size))]
    if resample == "down":
        return [Part(Taps(kernel, pad, 2, ((size[0] + 1) // 2, (size[1] + 1) // 2, (size[2] + 1) // 2)))]
    parts = []
    for parity in PARITIES:
        taps = cl.upsampling_taps(kernel, parity, size)
        if 0 not in taps.size:
            # The plane of zeros that the plain block puts in front of each axis moves everything by one voxel.
            parts.append(Part(taps, parity, (parity[0] + 1, parity[1] + 1, parity[2] + 1), 2))
    return parts


@dataclass(frozen=True)
class Weights:
    """The parameters of a block; `residual` those of its 1x1x1 convolution of stride 2, where it has one."""

    kernel: Tensor
    scale: Tensor
    shift: Tensor
    expand: Tensor
    expand_bias: Tensor
    compress: Tensor
    compress_bias: Tensor
    residual: Tensor | None
    residual_bias: Tensor | None


@dataclass(frozen=True)
class Folded:
    """A block's first correlation and linear map for one volume: `expand @ (correlation + centre) + bias`."""

    centre: Tensor
    """Bias of the correlation: minus the mean, rounded to the type of the volume."""
    offset: Tensor
    """What the rounding left of the mean."""
    rstd: Tensor
    expand: Tensor
    bias: Tensor


def _fold(weights: Weights, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> Folded:
    exact = weights.scale.dtype
    centre = _round(mean, dtype)
    offset = (mean - centre.double()).to(exact)
    rstd = rstd.to(exact)
    factor = weights.scale * rstd
    bias = weights.expand_bias + weights.expand @ (weights.shift - offset * factor)
    return Folded(-centre, offset, rstd, (weights.expand * factor).to(dtype), bias.to(dtype))


def _round(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """The mean as a volume's type holds it: a function, so that tests can round more coarsely."""
    return mean.to(dtype)


def _correlated(x: Tensor, part: Part, bias: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, planes) over the slabs of a part, each after the next one has been computed.

    So the planes of x from `start` to `stop` may be overwritten.
    """
    waiting = None
    for start, stop in cl.slabs(part.taps.size, thickest_halo=part.taps.kernel.shape[2]):
        y = cl.correlate(x, part.taps, start, stop, bias)
        if waiting is not None:
            yield waiting
        waiting = (start, stop, y)
    if waiting is not None:
        yield waiting


def _statistics(x: Tensor, parts: list[Part], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (C), in float64, of what the parts make of x."""
    moments = Moments(x.shape[-1])
    for part in parts:
        for _, _, y in _correlated(x, part, None):
            moments.add(y.view(-1, y.shape[-1]))
    return moments.mean, moments.scale(eps)


def _map(x: Tensor, out: Tensor, base: Tensor | None, parts: list[Part], weights: Weights, folded: Folded) -> None:
    """Write the block's linear maps of its correlations, plus `base`, to `out`; both may be x, and each other."""
    compress, bias = weights.compress.to(x.dtype), weights.compress_bias.to(x.dtype)
    for part in parts:
        for start, stop, y in _correlated(x, part, folded.centre):
            rows, target = y.view(-1, y.shape[-1]), part.view(out, start, stop)
            dense = target.is_contiguous()
            values = target.view(-1, out.shape[-1]) if dense else rows.new_empty(rows.shape[0], out.shape[-1])
            added = part.view(base, start, stop).view(values.shape) if base is not None and dense else None
            for chunk in cl.chunks(rows.shape[0], hidden=compress.shape[1]):
                expanded = cl.linear_gelu(rows[chunk], folded.expand, folded.bias)
                if added is None:
                    values[chunk] = cl.linear(expanded, compress, bias)
                else:
                    values[chunk] = cl.linear_add(expanded, compress, bias, added[chunk])
            if not dense:
                target.add_(values.view(target.shape))


def _residual_down(x: Tensor, weights: Weights) -> Tensor:
    """The 1x1x1 convolution of stride 2 (Z / 2, Y / 2, X / 2, 2C)."""
    assert weights.residual is not None
    assert weights.residual_bias is not None
    coarse = cl.of_parity(x, (0, 0, 0)).contiguous()
    rows = cl.linear(coarse.view(-1, x.shape[-1]), weights.residual.to(x.dtype), weights.residual_bias.to(x.dtype))
    return rows.view(*coarse.shape[:3], -1)


def _add_residual_up(x: Tensor, out: Tensor, weights: Weights) -> None:
    """Add the transposed 1x1x1 convolution of stride 2 to `out`; its bias reaches the voxels between, too."""
    assert weights.residual is not None
    assert weights.residual_bias is not None
    rows = cl.linear(x.reshape(-1, x.shape[-1]), weights.residual.t().contiguous().to(x.dtype))
    cl.of_parity(out, (1, 1, 1)).add_(rows.view(*x.shape[:3], -1))
    out[1:, 1:, 1:].add_(weights.residual_bias.to(x.dtype))


@dataclass(frozen=True)
class Kind:
    """What tells one block from another, beside its weights."""

    resample: str
    residual: bool
    eps: float


def _size(x: Tensor) -> Size:
    return (x.shape[0], x.shape[1], x.shape[2])


def run_block(x: Tensor, kind: Kind, weights: Weights, out: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block on one volume x (Z, Y, X, C) and return the mean and 1 / standard deviation of its norm.

    `out` may be x itself where nothing is resampled; an upsampling block adds to it.
    """
    parts = _parts(weights.kernel.to(x.dtype), kind.resample, _size(x))
    mean, rstd = _statistics(x, parts, kind.eps)
    base = x if kind.residual else None
    if kind.resample == "up":
        base = out
    elif kind.resample == "down" and kind.residual:
        base = out.copy_(_residual_down(x, weights))
    _map(x, out, base, parts, weights, _fold(weights, mean, rstd, x.dtype))
    if kind.resample == "up" and kind.residual:
        _add_residual_up(x, out, weights)
    return mean, rstd


def empty_output(x: Tensor, kind: Kind, weights: Weights, skip: Tensor | None) -> Tensor:
    if skip is not None:
        return skip.clone()
    half = [(n + 1) // 2 for n in x.shape[1:4]]
    return x.new_empty(x.shape[0], *half, weights.compress.shape[0])


@dataclass
class Gradients:
    """Sums over the voxels of a batch: the gradients of a block's parameters, in the order of `Weights`."""

    kernel: Tensor
    scale: Tensor
    shift: Tensor
    expand: Tensor
    expand_bias: Tensor
    compress: Tensor
    compress_bias: Tensor
    residual: Tensor | None

    @classmethod
    def zeros(cls, weights: Weights) -> Gradients:
        """Return gradients to add to."""
        return cls(
            kernel=torch.zeros_like(weights.kernel),
            scale=torch.zeros_like(weights.scale),
            shift=torch.zeros_like(weights.shift),
            expand=torch.zeros_like(weights.expand),
            expand_bias=torch.zeros_like(weights.expand_bias),
            compress=torch.zeros_like(weights.compress),
            compress_bias=torch.zeros_like(weights.compress_bias),
            residual=None if weights.residual is None else torch.zeros_like(weights.residual),
        )


def _map_backward(
    x: Tensor, gradient: Tensor, parts: list[Part], weights: Weights, folded: Folded, sums: Gradients, of_x: Tensor
) -> list[Tensor]:
    """Add the gradients of norm and linear maps to `sums`; return those of the parts' correlations.

    Where the block resamples nothing, the latter lie in `of_x`. The mean of the gradient of a norm's input, and its
    mean weighted with that input, follow from the gradient of the linear map behind the norm, so that they cost no
    pass over the voxels.
    """
    cross = torch.zeros_like(weights.expand)  # of hidden gradients and correlations
    total = torch.zeros_like(weights.expand_bias)  # of hidden gradients
    found = []
    for part in parts:
        in_place = part.step == part.taps.stride == 1
        by_part = of_x if in_place else x.new_empty(*part.taps.size, x.shape[-1])
        for start, stop, y in _correlated(x, part, folded.centre):
            rows = y.view(-1, y.shape[-1])
            outer = part.view(gradient, start, stop).reshape(rows.shape[0], -1)
            target = by_part[start:stop].view(rows.shape)
            _linear_maps_backward(rows, outer, weights, folded, sums, cross, total, target)
        found.append(by_part)

    count = sum(by_part.shape[:3].numel() for by_part in found)
    factor = weights.scale * folded.rstd
    plain = total @ weights.expand
    weighted = folded.rstd * ((weights.expand * cross).sum(0) - folded.offset * plain)
    sums.scale += weighted
    sums.shift += plain
    sums.expand += cross * factor + total[:, None] * (weights.shift - folded.offset * factor)
    sums.expand_bias += total
    slope = factor * folded.rstd * weighted / count
    level = (factor * plain / count - slope * folded.offset).to(x.dtype)
    slope = slope.to(x.dtype)
    for part, by_part in zip(parts, found, strict=True):
        for start, stop, y in _correlated(x, part, folded.centre):
            by_part[start:stop] -= y.mul_(slope).add_(level)
    return found


def _linear_maps_backward(
    rows: Tensor,
    outer: Tensor,
    weights: Weights,
    folded: Folded,
    sums: Gradients,
    cross: Tensor,
    total: Tensor,
    target: Tensor,
) -> None:
    """Go back from the gradient of the output, `outer` (V, K), to that of the norm's input, `target` (V, C)."""
    to_hidden = weights.compress.t().contiguous().to(rows.dtype)
    to_input = folded.expand.t().contiguous()
    for chunk in cl.chunks(rows.shape[0], hidden=to_hidden.shape[0]):
        before = cl.linear(rows[chunk], folded.expand, folded.bias)
        sums.compress += cl.cross(outer[chunk], F.gelu(before))
        sums.compress_bias += outer[chunk].sum(0, dtype=total.dtype)
        inner = torch.ops.aten.gelu_backward(cl.linear(outer[chunk], to_hidden), before)
        cross += cl.cross(inner, rows[chunk])
        total += inner.sum(0, dtype=total.dtype)
        target[chunk] = cl.linear(inner, to_input)


def _kernel_backward(x: Tensor, found: list[Tensor], parts: list[Part], kind: Kind, sums: Gradients) -> None:
    """Add the gradient of the depthwise kernel, from those of the parts' correlations."""
    edge = sums.kernel.shape[-1]
    if kind.resample == "none":
        sums.kernel += cl.kernel_gradient(x, found[0], parts[0].taps)
    elif kind.resample == "down":
        for parity in PARITIES:
            taps = cl.downsampling_taps(sums.kernel, parity, parts[0].taps.size)
            place = cl.select_taps(edge, parity)
            sums.kernel[place] += cl.kernel_gradient(cl.of_parity(x, parity), found[0], taps)
    else:
        for part, by_part in zip(parts, found, strict=True):
            place = cl.select_taps(edge, part.parity)
            sums.kernel[place] += cl.kernel_gradient(x, by_part, part.taps).flip(2, 3, 4)


def _input_backward(
    of_x: Tensor, gradient: Tensor, found: list[Tensor], parts: list[Part], kind: Kind, weights: Weights
) -> None:
    """Write the gradient of x, from those of the parts' correlations and that of the output."""
    if kind.resample == "none":  # of_x is found[0]
        back = Part(cl.adjoint(parts[0].taps, _size(of_x)))
        for start, stop, planes in _correlated(of_x, back, None):
            of_x[start:stop] = planes.add_(gradient[start:stop]) if kind.residual else planes
    elif kind.resample == "up":
        of_x.zero_()
        for part, by_part in zip(parts, found, strict=True):
            for start, stop, planes in _correlated(by_part, Part(cl.adjoint(part.taps, _size(of_x))), None):
                of_x[start:stop] += planes
    else:
        kernel = weights.kernel.to(of_x.dtype)
        for parity in PARITIES:
            target = cl.of_parity(of_x, parity)
            taps = cl.adjoint(cl.downsampling_taps(kernel, parity, parts[0].taps.size), _size(target))
            for start, stop, planes in _correlated(found[0], Part(taps), None):
                target[start:stop] = planes


def _residual_backward(
    x: Tensor, gradient: Tensor, kind: Kind, weights: Weights, sums: Gradients, of_x: Tensor | None
) -> None:
    """Add what the 1x1x1 convolution of stride 2 contributes, to `sums` and to the gradient of x."""
    if weights.residual is None:
        return
    assert sums.residual is not None
    residual = weights.residual.to(x.dtype)
    if kind.resample == "down":
        rows = cl.of_parity(x, (0, 0, 0)).reshape(-1, x.shape[-1])
        outer = gradient.reshape(rows.shape[0], -1)
        sums.residual += cl.cross(outer, rows)
        if of_x is not None:
            target = cl.of_parity(of_x, (0, 0, 0))
            target.add_(cl.linear(outer, residual.t().contiguous()).view(target.shape))
    else:
        rows = x.reshape(-1, x.shape[-1])
        outer = cl.of_parity(gradient, (1, 1, 1)).reshape(rows.shape[0], -1)
        sums.residual += cl.cross(rows, outer)
        if of_x is not None:
            of_x.add_(cl.linear(outer, residual).view(of_x.shape))


def run_block_backward(
    x: Tensor,
    gradient: Tensor,
    kind: Kind,
    weights: Weights,
    moments: tuple[Tensor, Tensor],
    sums: Gradients,
    of_x: Tensor,
    *,
    needs_x: bool,
    needs_kernel: bool,
) -> None:
    """Go back through a block for one volume x (Z, Y, X, C).

    Args:
        x: what the block got.
        gradient: of what it returned.
        kind: the block's.
        weights: the block's.
        moments: what `run_block` returned.
        sums: the gradients of its parameters are added to these.
        of_x: the gradient of x is written here; scratch where it is not needed.
        needs_x: whether the gradient of x is needed.
        needs_kernel: whether that of the depthwise kernel is needed.
    """
    parts = _parts(weights.kernel.to(x.dtype), kind.resample, _size(x))
    folded = _fold(weights, *moments, x.dtype)
    found = _map_backward(x, gradient, parts, weights, folded, sums, of_x)
    if needs_kernel:
        _kernel_backward(x, found, parts, kind, sums)
    if needs_x:
        _input_backward(of_x, gradient, found, parts, kind, weights)
    _residual_backward(x, gradient, kind, weights, sums, of_x if needs_x else None)
