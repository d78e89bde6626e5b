"""How far a network sees: which voxels of the input have a gradient from one voxel of the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from connectomics_zoo.network.build import build
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import ModelSpec

PERIOD = 32
"""Voxels after which what an output sees repeats itself: networks halve five times at most."""

LONGEST = 1024
"""Voxels along an axis beyond which is not looked."""


class Reach(NamedTuple):
    """What one voxel of the output depends on, in voxels (z, y, x); None along an axis: on all of a window."""

    field: tuple[int | None, ...]
    """Voxels from the first to the last: the receptive field."""
    halo: tuple[int | None, ...]
    """Voxels before and behind, whichever is more: what a tile must have around what is kept of it."""


def measure_reach(spec: ModelSpec) -> Reach:
    """Return how far the convolutions and the attention of a network reach, measured in seconds on the CPU.

    Norms are left out: those with statistics of the window (group, instance and layer norm over space, and whatever
    scales channels by such) make every voxel depend a little on all of them. Along each axis a long, thin input is put
    through; all weights and inputs are positive, so that no gradient vanishes where there is a way, and channels are
    averaged, which changes no way.
    """
    network = build(spec, deep_supervision=False).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1 / max(1, parameter[0].numel()))
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Reach(*zip(*(_reach_along(axis, network, spec) for axis in range(len(spec.input.axes))), strict=True))


def _reach_along(axis: int, network: nn.Module, spec: ModelSpec) -> tuple[int | None, int | None]:
    rule, context = spec.input.size, spec.input.margins[axis]
    # Networks that divide by something else than 2 repeat themselves from one legal size to the next.
    period = PERIOD if PERIOD % rule.step[axis] == 0 else rule.step[axis]
    length = 4 * PERIOD
    while length < LONGEST and rule.minimum[axis] + rule.step[axis] <= MAX_EDGE:
        length *= 2
        size = list(rule.minimum)
        size[axis] = rule.round_up((length,) * len(size))[axis]
        x = torch.ones(1, spec.input.channels, *size, dtype=torch.float64, requires_grad=True)
        with _Ways(axis, len(size)):
            output = network(x)
        field = halo = 0
        middle = size[axis] // (2 * period) * period
        for place in (middle, middle + period - 1):
            (gradient,) = torch.autograd.grad(output.select(2 + axis, place - context).sum(), x, retain_graph=True)
            others = [other for other in range(gradient.dim()) if other != 2 + axis]
            seen = gradient.sum(others).nonzero().flatten()
            first, last = int(seen[0]), int(seen[-1])
            field, halo = max(field, last - first + 1), max(halo, place - first, last - place)
            if first == 0 or last == size[axis] - 1:
                break
        else:
            return field, halo
    return None, None


_SAME = {
    *(F.group_norm, F.batch_norm, F.instance_norm, F.layer_norm),
    *(F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish),
    *(F.prelu, torch.prelu, torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh, F.dropout),
}
"""What changes values and no ways: it returns its input."""

_PAIRS: dict[Any, Callable[[Any, Any], Tensor]] = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__), torch.add),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), torch.mul),
    **dict.fromkeys((torch.max, torch.maximum), torch.maximum),
}
"""What joins two tensors, and not in place: channels may share their memory."""

_CONVOLUTIONS = {torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d}
_POOLS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("max_pool2d", "_max_pool2d"), F.avg_pool2d),
    **dict.fromkeys(("max_pool3d", "_max_pool3d"), F.avg_pool3d),
}


class _Ways(TorchFunctionMode):
    """Within it a network computes what leads where, cheaply: convolutions of one channel, whose mean goes on.

    Args:
        axis: the spatial axis along which ways matter; along the others kernels have one tap where that changes no
            size. A 2-D convolution in a network of volumes has their last two axes.
        axes: how many spatial axes the network has.
    """

    def __init__(self, axis: int, axes: int) -> None:
        super().__init__()
        self.behind = axes - axis

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _SAME:
            return args[0] if args else kwargs["input"]
        if func in _PAIRS and len(args) == 2:
            return _pair(_PAIRS[func], *args)
        if func is torch.linalg.vector_norm:  # a statistic, as in a norm
            return torch.ones(func(args[0].to("meta"), *args[1:], **kwargs).shape, dtype=args[0].dtype)
        if func in (torch.cat, torch.concat) and all(map(_is_one_channel, args[0])) and _axis(args, kwargs) == 1:
            single = torch.stack([part[:, :1] for part in args[0]]).mean(0)
            return single.expand(-1, sum(part.shape[1] for part in args[0]), *[-1] * (single.dim() - 2))
        if func in _CONVOLUTIONS:
            return _convolve(func, self.behind, *args, **kwargs)
        if getattr(func, "__name__", "") in _POOLS:
            x, kernel, *rest = args
            stride = kwargs.get("stride", rest[0] if rest else None)
            padding = kwargs.get("padding", rest[1] if len(rest) > 1 else 0)
            return _POOLS[func.__name__](x, kernel, stride, padding)
        return func(*args, **kwargs)


def _axis(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The axis that tensors are joined along."""
    return int(kwargs.get("dim", args[1] if len(args) > 1 else 0))


def _is_one_channel(x: Any) -> bool:
    """Whether all channels of x (B, C, …) are the same memory."""
    return isinstance(x, Tensor) and x.dim() >= 4 and (x.stride(1) == 0 or x.shape[1] == 1)


def _pair(func: Callable[[Any, Any], Tensor], first: Any, second: Any) -> Tensor:
    """Join two tensors by `func`: of single channels one alone, and one weight a channel changes no way."""
    if _is_one_channel(first) and _is_one_channel(second) and first.shape[2:] == second.shape[2:]:
        single = func(first[:, :1], second[:, :1])
        return single.expand(-1, max(first.shape[1], second.shape[1]), *[-1] * (single.dim() - 2))
    for x, other in ((first, second), (second, first)):
        if _is_one_channel(x) and isinstance(other, Tensor) and _is_a_weight_a_channel(other, x):
            result: Tensor = x
            return result
    return func(first, second)


def _is_a_weight_a_channel(values: Tensor, x: Tensor) -> bool:
    alike = values.dim() == x.dim() and values.shape[1] == x.shape[1] and values.shape[2:].numel() == 1
    return alike and not values.requires_grad


def _convolve(
    func: Callable[..., Tensor],
    behind: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Do `func` with a kernel of ones between single channels, and give the result as many channels as it has.

    `behind` counts the axis along which ways matter from the last one of x, which is 1.
    """
    axis = x.dim() - behind  # 1, and none of the kernel's, where x has no such axis
    is_transposed = func in (torch.conv_transpose2d, torch.conv_transpose3d)
    names = ("output_padding", "groups", "dilation") if is_transposed else ("dilation", "groups")
    more = {**dict(zip(names, args, strict=False)), **kwargs}
    groups = more.pop("groups", 1)
    channels = weight.shape[1] * groups if is_transposed else weight.shape[0]
    single = x[:, :1] if _is_one_channel(x) else x.mean(1, keepdim=True)
    kernel = weight.new_ones(1, 1, *weight.shape[2:]) / weight[0, 0].numel()

    def thinned(value: Any, thin: int) -> tuple[int, ...]:
        values = (value,) * (x.dim() - 2) if isinstance(value, int) else tuple(value)
        return tuple(item if 2 + index == axis else thin for index, item in enumerate(values))

    size = func(single.to("meta"), kernel.to("meta"), None, stride, padding, **more).shape
    thin_kernel = kernel[tuple(slice(None) if index in (0, 1, axis) else slice(1) for index in range(kernel.dim()))]
    for fill in (0, 1) if is_transposed else (0,):
        thin_more = {**more, "output_padding": thinned(more.get("output_padding", 0), fill)} if is_transposed else more
        thin_padding = thinned(padding, 0)
        with suppress(RuntimeError):  # a padding of the output that torch does not have
            meta = func(single.to("meta"), thin_kernel.to("meta"), None, stride, thin_padding, **thin_more)
            if meta.shape == size:
                result = func(single, thin_kernel, None, stride, thin_padding, **thin_more)
                return result.expand(-1, channels, *[-1] * (result.dim() - 2))
    result = func(single, kernel, None, stride, padding, **more)
    return result.expand(-1, channels, *[-1] * (result.dim() - 2))
