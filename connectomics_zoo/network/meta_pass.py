"""Passes through networks on the meta device, where norms and activations are answered with the shapes they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_SAME_SHAPE = frozenset({_aten.elu.default, _aten.gelu.default, _aten.leaky_relu.default, _aten.relu.default})
_IN_PLACE = frozenset({_aten.elu_.default, _aten.leaky_relu_.default, _aten.relu_.default})
_SAME_SHAPE_BACKWARD = frozenset(
    {_aten.gelu_backward.default, _aten.leaky_relu_backward.default, _aten.threshold_backward.default}
)
_BATCH_NORMS = frozenset(
    {
        _aten.native_batch_norm.default,
        _aten._native_batch_norm_legit.default,
        _aten._native_batch_norm_legit.no_stats,  # of instance norms
    }
)
_ELEMENTWISE = frozenset({_aten.add.Tensor, _aten.mul.Tensor})


class MetaPass(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Within it, the commonest norms and activations of meta tensors return new tensors of their input's shape.

    So do torch's own kernels for them, but after a dozen steps in Python, which are most of the time of a pass. Whether
    a norm's weights and groups fit its input was checked before it comes here; every other operator is torch's own.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return quick_result(func, args, kwargs or {})


def quick_result(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operator of torch returns for meta tensors, the commonest ones without its own way to it."""
    if not args or not isinstance(args[0], Tensor) or not args[0].is_meta:
        return func(*args, **kwargs)
    x = args[0]
    if func in _IN_PLACE:
        return x
    if func in _SAME_SHAPE or func in _SAME_SHAPE_BACKWARD:
        return _like(x)
    if func in _ELEMENTWISE and not kwargs and (_are_alike(x, args[1]) or _is_spread(args[1], over=x)):
        return _like(x)
    if func is _aten.native_layer_norm.default and _fits(x, *args[1:4]):
        normed = len(args[1])
        return _normed(x, statistics=(*x.shape[: x.dim() - normed], *[1] * normed))
    if func is _aten._softmax.default and not args[2]:
        return _like(x)
    if func in _BATCH_NORMS:
        return _normed(x, statistics=x.shape[1:2])
    if func is _aten.native_group_norm.default:
        return _normed(x, statistics=(x.shape[0], args[6]))
    if func is _aten.native_batch_norm_backward.default:
        return _normed_backward(args[1], weight=args[2], wanted=args[9])
    if func is _aten.native_group_norm_backward.default:
        return _normed_backward(args[1], weight=args[4], wanted=args[9])
    return func(*args, **kwargs)


def _like(x: Tensor) -> Tensor:
    """A tensor as `torch.empty_like` gives it, sooner where `x` has the usual strides."""
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


def _are_alike(x: Tensor, other: Any) -> bool:
    return isinstance(other, Tensor) and other.is_meta and (x.shape, x.dtype) == (other.shape, other.dtype)


def _fits(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether a layer norm over `shape` is possible, which is checked nowhere else."""
    given = [tuple(tensor.shape) for tensor in (weight, bias) if tensor is not None]
    return all(known == tuple(shape) for known in (tuple(x.shape[-len(shape) :]), *given))


def _is_spread(other: Any, *, over: Tensor) -> bool:
    """Whether `other` has one number for each channel in the last axis of a tensor, as in a transformer."""
    return (
        isinstance(other, Tensor)
        and other.is_meta
        and other.dim() == 1
        and (other.shape[0], other.dtype) == (over.shape[-1], over.dtype)
    )


def _normed(x: Tensor, *, statistics: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a norm returns: the result, and the means and deviations that its gradient needs."""
    return _like(x), x.new_empty(statistics), x.new_empty(statistics)


def _normed_backward(
    x: Tensor, *, weight: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of a norm's input, scale and shift, those that are wanted."""
    of_x, of_scale, of_shift = wanted
    return (
        _like(x) if of_x else None,
        _like(weight) if of_scale and weight is not None else None,
        _like(weight) if of_shift and weight is not None else None,
    )
