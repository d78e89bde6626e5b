"""MedNeXt on a CPU: several times faster than `zoo.builders.nets.mednext`, with a fraction of its memory, and equal.

Tensors are (B, Z, Y, X, C). In evaluation the blocks work in place. For the backward pass each block keeps its input
alone (`mednext_block` says why), so that `checkpointing` has nothing left to save.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_modules

from connectomics_zoo import fastpath
from zoo.builders.nets import channels_last as cl
from zoo.builders.nets.mednext_block import Gradients, Kind, Weights, empty_output, run_block, run_block_backward


class BlockFunction(torch.autograd.Function):
    """A block with a backward pass of its own: `apply(kind, x, skip, first_bias, *weights)`.

    x is (B, Z, Y, X, C); `skip` is what an upsampling block adds to, None elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, kind: Kind, x: Tensor, skip: Tensor | None, first_bias: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        weights = Weights(*parameters)  # type: ignore[arg-type]
        out = torch.empty_like(x) if kind.resample == "none" else empty_output(x, kind, weights, skip)
        moments = [run_block(x[i], kind, weights, out[i]) for i in range(x.shape[0])]
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
                run_block_backward(
                    x[i],
                    gradient[i],
                    kind,
                    weights,
                    (means[i], rstds[i]),
                    sums,
                    of_x[i],
                    needs_x=needs_x,
                    needs_kernel=needs_kernel,
                )
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


MINIMUM_CHANNELS = 16
"""With fewer, a vector register is not full, and training is slower than plainly."""


def obstacle(network: nn.Module, x: Tensor, *, blocks: tuple[type[nn.Module], ...]) -> str | None:
    """Return why the fast path does not apply, or None where it does.

    Args:
        network: a MedNeXt.
        x: its input (B, C, Z, Y, X).
        blocks: the classes that a MedNeXt is made of, beside torch's own.
    """
    if not fastpath.enabled():
        return "it is switched off"
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the network is being compiled or exported"
    if x.dim() != 5 or x.shape[0] == 0:
        return f"the input, {tuple(x.shape)}, is no batch of volumes"
    if type(x) is not Tensor:
        return f"the input is a {type(x).__name__}, not a plain tensor"
    if torch._C._functorch.maybe_current_level() is not None:
        return "torch.func transforms the network"
    if forward_ad._current_level >= 0:
        return "derivatives are taken in forward mode"
    if torch._C._len_torch_dispatch_stack() or _torch._has_any_global_hook():
        return "a mode or a global hook watches every operation"
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return f"the input is {x.dtype} on {x.device}, not float32 on the CPU"
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return f"autocast computes in {torch.get_autocast_dtype('cpu')}"
    return _obstacle_inside(network, (*_KNOWN, *blocks))


_torch: Any = torch_modules
_KNOWN = (nn.Sequential, nn.Conv3d, nn.ConvTranspose3d, nn.GroupNorm)


def _obstacle_inside(network: nn.Module, known: tuple[type[nn.Module], ...]) -> str | None:
    for name, module in network.named_modules():
        if module is network:
            continue
        if type(module) not in known:
            return f"{name} is a {type(module).__name__}"
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"{name} has a hook"
        if "forward" in vars(module):
            return f"{name} has a forward of its own"
        if getattr(module, "grn", False):
            return f"{name} has global response normalisation"
        if isinstance(module, nn.GroupNorm):
            if module.num_channels < MINIMUM_CHANNELS:
                return f"{name} has fewer than {MINIMUM_CHANNELS} channels"
            if module.num_groups != module.num_channels or not module.affine:
                return f"{name} has several channels in a group, or no weights"
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and not _is_published(
            module, may_stride=name.endswith((".conv1", ".res_conv"))
        ):
            return f"{name} is none of MedNeXt's convolutions"
    return _obstacle_in_weights(network)


def _is_published(conv: nn.Conv3d | nn.ConvTranspose3d, *, may_stride: bool) -> bool:
    """Whether it is 1x1x1, or depthwise of odd size, with nothing that MedNeXt's do not have."""
    edge = conv.kernel_size[0]
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels
    return (
        (edge > 1 and edge % 2 == 1 if is_depthwise else edge == conv.groups == 1)
        and conv.bias is not None
        and conv.kernel_size == (edge,) * 3
        and conv.padding == (edge // 2,) * 3
        and (conv.stride == (1, 1, 1) or (may_stride and conv.stride == (2, 2, 2)))
        and conv.dilation == (1, 1, 1)
        and conv.padding_mode == "zeros"
        and not any(getattr(conv, "output_padding", ()))
    )


def _obstacle_in_weights(network: nn.Module) -> str | None:
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


_block: Any = BlockFunction.apply
_pointwise_layer: Any = PointwiseFunction.apply


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
        blocks: Any = self.network.get_submodule(name)
        for block in blocks:  # not children(), which leaves out a block that occurs twice
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
            result: Tensor = _block(kind, x, skip, module.conv1.bias, *parameters)
            return result
        weights = Weights(*parameters)
        in_place = x if kind.resample == "none" else skip
        out = empty_output(x, kind, weights, None) if in_place is None else in_place
        for volume, target in zip(x, out, strict=True):
            run_block(volume, kind, weights, target)
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
            result: Tensor = _pointwise_layer(x, weight.contiguous(), conv.bias, self.dtype)
            return result
        return _pointwise(x, weight.contiguous(), conv.bias, self.dtype)
