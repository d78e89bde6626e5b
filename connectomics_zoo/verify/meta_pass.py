"""Passes through networks on the meta device, where norms and activations are answered with the shapes they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_SAME_SHAPE = frozenset({_aten.elu.default, _aten.gelu.default, _aten.leaky_relu.default, _aten.relu.default})
_IN_PLACE = frozenset({_aten.elu_.default, _aten.leaky_relu_.default, _aten.relu_.default})


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
        if not args or not isinstance(args[0], Tensor) or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        if func in _IN_PLACE:
            return args[0]
        if func in _SAME_SHAPE:
            return torch.empty_like(args[0])
        if func is _aten.native_batch_norm.default:
            return _normed(args[0], statistics=args[0].shape[1:2])
        if func is _aten.native_group_norm.default:
            groups = args[6]
            return _normed(args[0], statistics=(args[0].shape[0], groups))
        return func(*args, **(kwargs or {}))


def _normed(x: Tensor, *, statistics: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a norm returns: the result, and the means and deviations that its gradient needs."""
    return torch.empty_like(x), x.new_empty(statistics), x.new_empty(statistics)
