"""MedNeXt on a CPU, three to seven times faster than `zoo.builders.nets.mednext` and equal to it.

Every block is one depthwise correlation (or eight, one for each parity of an upsampled grid), the statistics of its
result, and two linear maps. Three things make it fast:

- Tensors are (B, Z, Y, X, C), so that the 1x1x1 convolutions are matrix products.
- The result of the correlation is never stored. It is computed twice, slab by slab: once for the statistics, once
  for what follows. Slabs stay in the cache, and the second time the correlation's bias makes them zero-centred.
- The norm is folded into the first linear map: only its scale and shift depend on the statistics.

In evaluation the blocks work in place. For the backward pass a block keeps its input alone and computes the rest
again, which is less work than writing and reading it; `checkpointing` has nothing left to save. The first bias of a
block has no effect before a norm over space, and its gradient is exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from connectomics_zoo import fastpath
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
    centre = mean.to(dtype)
    offset = (mean - centre.double()).to(exact)
    rstd = rstd.to(exact)
    factor = weights.scale * rstd
    bias = weights.expand_bias + weights.expand @ (weights.shift - offset * factor)
    return Folded(-centre, offset, rstd, (weights.expand * factor).to(dtype), bias.to(dtype))


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


def _run(x: Tensor, kind: Kind, weights: Weights, out: Tensor) -> tuple[Tensor, Tensor]:
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
        tensors = [
            weights.kernel,
            weights.scale,
            weights.shift,
            weights.expand,
            weights.expand_bias,
            weights.compress,
            weights.compress_bias,
        ]
        residual = None if weights.residual is None else torch.zeros_like(weights.residual)
        return cls(*[torch.zeros_like(tensor) for tensor in tensors], residual)


def _map_backward(
    x: Tensor, gradient: Tensor, parts: list[Part], weights: Weights, folded: Folded, sums: Gradients, of_x: Tensor
) -> list[Tensor]:
    """Add the gradients of norm and linear maps to `sums`; return those of the parts' correlations.

    Where the block resamples nothing, `of_x` is where they lie.

    The mean of the gradient of a norm's input, and its mean weighted with that input, follow from the gradient of
    the linear map behind the norm, so that they cost no pass over the voxels.
    """
    dtype, exact = x.dtype, weights.scale.dtype
    to_hidden, to_input = weights.compress.t().contiguous().to(dtype), folded.expand.t().contiguous()
    cross = torch.zeros_like(weights.expand)  # of hidden gradients and correlations
    total = torch.zeros_like(weights.expand_bias)
    found, count = [], 0
    for part in parts:
        in_place = part.step == part.taps.stride == 1
        by_part = of_x if in_place else x.new_empty(*part.taps.size, x.shape[-1])
        for start, stop, y in _correlated(x, part, folded.centre):
            rows, target = y.view(-1, y.shape[-1]), by_part[start:stop].view(-1, y.shape[-1])
            outer = part.view(gradient, start, stop).reshape(rows.shape[0], -1)
            count += rows.shape[0]
            for chunk in cl.chunks(rows.shape[0], hidden=to_hidden.shape[0]):
                before = cl.linear(rows[chunk], folded.expand, folded.bias)
                sums.compress += cl.cross(outer[chunk], nn.functional.gelu(before))
                sums.compress_bias += outer[chunk].sum(0, dtype=exact)
                inner = torch.ops.aten.gelu_backward(cl.linear(outer[chunk], to_hidden), before)
                cross += cl.cross(inner, rows[chunk])
                total += inner.sum(0, dtype=exact)
                target[chunk] = cl.linear(inner, to_input)
        found.append(by_part)

    factor = weights.scale * folded.rstd
    plain = total @ weights.expand
    weighted = folded.rstd * ((weights.expand * cross).sum(0) - folded.offset * plain)
    sums.scale += weighted
    sums.shift += plain
    sums.expand += cross * factor + total[:, None] * (weights.shift - folded.offset * factor)
    sums.expand_bias += total
    slope = factor * folded.rstd * weighted / count
    level = (factor * plain / count - slope * folded.offset).to(dtype)
    slope = slope.to(dtype)
    for part, by_part in zip(parts, found, strict=True):
        for start, stop, y in _correlated(x, part, folded.centre):
            by_part[start:stop] -= y.mul_(slope).add_(level)
    return found


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


class BlockFunction(torch.autograd.Function):
    """A block with a backward pass of its own: `apply(kind, x, skip, first_bias, *weights)`.

    x is (B, Z, Y, X, C); `skip` is what an upsampling block adds to, None elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, kind: Kind, x: Tensor, skip: Tensor | None, first_bias: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        weights = Weights(*parameters)  # type: ignore[arg-type]
        out = torch.empty_like(x) if kind.resample == "none" else _empty_output(x, kind, weights, skip)
        moments = [_run(x[i], kind, weights, out[i]) for i in range(x.shape[0])]
        ctx.kind = kind
        ctx.save_for_backward(
            x, first_bias, *[torch.stack(values) for values in zip(*moments, strict=True)], *parameters
        )
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        x, first_bias, means, rstds, *parameters = ctx.saved_tensors
        kind: Kind = ctx.kind
        weights = Weights(*parameters)
        _, needs_x, needs_skip, needs_bias, needs_kernel, *_ = ctx.needs_input_grad
        sums = Gradients.zeros(weights)
        of_x = torch.empty_like(x)
        gradient = gradient.to(x.dtype).contiguous()
        with torch.autocast("cpu", enabled=False):
            for i in range(x.shape[0]):
                parts = _parts(weights.kernel.to(x.dtype), kind.resample, _size(x[i]))
                folded = _fold(weights, means[i], rstds[i], x.dtype)
                found = _map_backward(x[i], gradient[i], parts, weights, folded, sums, of_x[i])
                if needs_kernel:
                    _kernel_backward(x[i], found, parts, kind, sums)
                if needs_x:
                    _input_backward(of_x[i], gradient[i], found, parts, kind, weights)
                _residual_backward(x[i], gradient[i], kind, weights, sums, of_x[i] if needs_x else None)
        return (
            None,
            of_x if needs_x else None,
            gradient if needs_skip else None,
            torch.zeros_like(first_bias) if needs_bias else None,
            sums.kernel,
            sums.scale,
            sums.shift,
            sums.expand,
            sums.expand_bias,
            sums.compress,
            sums.compress_bias,
            sums.residual,
            None if weights.residual is None else sums.compress_bias,
        )


def _empty_output(x: Tensor, kind: Kind, weights: Weights, skip: Tensor | None) -> Tensor:
    if skip is not None:
        return skip.clone()
    half = [(n + 1) // 2 for n in x.shape[1:4]]
    return x.new_empty(x.shape[0], *half, weights.compress.shape[0])


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the fast MedNeXt has no second derivative (create_graph=True): run forward and backward within "
            "connectomics_zoo.fastpath.plain_only()."
        )


class PointwiseFunction(torch.autograd.Function):
    """The 1x1x1 convolution of stem and heads: `apply(x, weight, bias, dtype)`, computed in the weights' type.

    x is (B, Z, Y, X, C), weight (K, C); the result, of type `dtype`, is (B, Z, Y, X, K).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _pointwise(x, weight, bias, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        x, weight = ctx.saved_tensors
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[0])
        rows, outer = x.view(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        back = weight.t().contiguous()
        with torch.autocast("cpu", enabled=False):
            for chunk in cl.chunks(rows.shape[0], hidden=max(weight.shape)):
                part = outer[chunk].to(weight.dtype)
                of_weight += cl.cross(part, rows[chunk].to(weight.dtype))
                of_bias += part.sum(0)
                if of_x is not None:
                    of_x.view(rows.shape)[chunk] = cl.linear(part, back)
        return of_x, of_weight, of_bias, None


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    out = x.new_empty(*x.shape[:4], weight.shape[0], dtype=dtype)
    rows, values = x.view(-1, x.shape[-1]), out.view(-1, weight.shape[0])
    for chunk in cl.chunks(rows.shape[0], hidden=max(weight.shape)):
        values[chunk] = cl.linear(rows[chunk].to(weight.dtype), weight, bias)
    return out


def obstacle(network: nn.Module, x: Tensor) -> str | None:
    """Return why the fast path does not apply to `network` and x (B, C, Z, Y, X), or None where it does."""
    if not fastpath.enabled():
        return "it is switched off"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the network is being compiled or exported"
    if type(x) is not Tensor or torch._C._functorch.maybe_current_level() is not None:
        return f"the input is no plain tensor but {type(x).__name__}, or transformed by torch.func"
    if torch._C._len_torch_dispatch_stack() or torch.nn.modules.module._has_any_global_hook():
        return "a mode or a hook watches every operation"
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() == 0:
        return f"the input is {x.dtype} on {x.device}, not float32 on the CPU"
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return f"autocast to {torch.get_autocast_dtype('cpu')}"
    return _obstacle_inside(network)


_KNOWN = {nn.Sequential, nn.Conv3d, nn.ConvTranspose3d, nn.GroupNorm}


def _obstacle_inside(network: nn.Module) -> str | None:
    for name, module in network.named_modules():
        kind = type(module)
        if module is not network and kind not in _KNOWN and kind.__name__ not in ("Block", "Head"):
            return f"{name} is a {kind.__name__}"
        if module is not network and (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks):
            return f"{name} has a hook"
        if isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels:
            return f"{name} has several channels in a group"
        if getattr(module, "grn", False):
            return f"{name} has global response normalisation"
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and module.groups > 1 and module.kernel_size[0] == 1:
            return f"{name} is a depthwise convolution of one tap"
    for name, parameter in network.named_parameters():
        if type(parameter) is not nn.Parameter or parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            return f"{name} is no float32 parameter on the CPU"
    return None


def forward(network: nn.Module, x: Tensor, *, supervise: bool) -> Tensor | dict[str, Tensor]:
    """(B, C, Z, Y, X) -> what the plain network returns; see `obstacle` for when."""
    low = torch.is_autocast_enabled("cpu")
    record = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in network.parameters()))
    with torch.autocast("cpu", enabled=False):
        return _Pass(network, record=record, dtype=torch.bfloat16 if low else x.dtype).run(x, supervise=supervise)


class _Pass:
    """One forward pass; where it is not recorded for a backward pass, blocks work in place."""

    def __init__(self, network: nn.Module, *, record: bool, dtype: torch.dtype) -> None:
        self.network = network
        self.record = record
        self.dtype = dtype

    def run(self, x: Tensor, *, supervise: bool) -> Tensor | dict[str, Tensor]:
        levels = sum(name.startswith("down_") for name, _ in self.network.named_children())
        x = self.pointwise(x.permute(0, 2, 3, 4, 1).contiguous(), self.network.get_submodule("stem"))
        skips = []
        for level in range(levels):
            x = self.stage(f"enc_block_{level}", x)
            skips.append(x)
            x = self.block(self.network.get_submodule(f"down_{level}"), x)
        x = self.stage("bottleneck", x)
        outputs = {f"ds_{levels}": self.head(levels, x)} if supervise else {}
        for level in reversed(range(levels)):
            x = self.block(self.network.get_submodule(f"up_{level}"), x, skips.pop())
            x = self.stage(f"dec_block_{level}", x)
            if level and supervise:
                outputs[f"ds_{level}"] = self.head(level, x)
        output = self.head(0, x)
        return {"output": output, **dict(reversed(outputs.items()))} if supervise else output

    def stage(self, name: str, x: Tensor) -> Tensor:
        for block in self.network.get_submodule(name).children():
            x = self.block(block, x)
        return x

    def block(self, block: nn.Module, x: Tensor, skip: Tensor | None = None) -> Tensor:
        module: Any = block
        residual = getattr(module, "res_conv", None)
        kind = Kind(module.resample, module.residual, module.norm.eps)
        parameters = (
            module.conv1.weight,
            module.norm.weight,
            module.norm.bias,
            module.conv2.weight.flatten(1),
            module.conv2.bias,
            module.conv3.weight.flatten(1),
            module.conv3.bias,
            None if residual is None else residual.weight.flatten(1),
            None if residual is None else residual.bias,
        )
        if self.record:
            result: Tensor = BlockFunction.apply(kind, x, skip, module.conv1.bias, *parameters)
            return result
        weights = Weights(*parameters)
        in_place = x if kind.resample == "none" else skip
        out = _empty_output(x, kind, weights, None) if in_place is None else in_place
        for volume, target in zip(x, out, strict=True):
            _run(volume, kind, weights, target)
        return out

    def head(self, level: int, x: Tensor) -> Tensor:
        logits = self.pointwise(x, self.network.get_submodule(f"out_{level}.conv_out"))
        return logits.permute(0, 4, 1, 2, 3).contiguous()

    def pointwise(self, x: Tensor, module: nn.Module) -> Tensor:
        """The 1x1x1 convolution; transposed ones store their weights as (in, out)."""
        conv: Any = module
        weight = conv.weight.flatten(1)
        if isinstance(conv, nn.ConvTranspose3d):
            weight = weight.t()
        if self.record:
            result: Tensor = PointwiseFunction.apply(x, weight.contiguous(), conv.bias, self.dtype)
            return result
        return _pointwise(x, weight.contiguous(), conv.bias, self.dtype)
