"""Counts what a step of a network holds in memory, on the meta device: shapes and types, and no arithmetic."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from connectomics_zoo.network.meta_pass import quick_result

_aten = torch.ops.aten
_CONVOLUTIONS = frozenset({_aten.convolution.default, _aten.convolution_backward.default})


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Within it, the bytes of all tensors that operations return are counted from then until they are freed.

    Views of one storage are counted once, and what is there before counts nothing: a network's parameters. What a
    tensor holds that is saved for the backward pass is freed when autograd lets go of it, as in a real step.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes that are held."""
        self.peak = 0
        """The most that was held, and needed beside it for an operation's workspace."""
        self._sizes: dict[int, int] = {}
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Let the storages of `tensors` count nothing."""
        for tensor in tensors:
            self._hold(tensor, counts=False)

    @property
    def largest(self) -> int:
        """Bytes of the largest storage that is held."""
        return max(self._sizes.values(), default=0)

    def restart_peak(self) -> None:
        """Let the peak begin anew with what is held."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = quick_result(func, args, kwargs or {})
        returned = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in returned:
            self._hold(tensor, counts=True)
        self.peak = max(self.peak, self.now + (_workspace(args, returned) if func in _CONVOLUTIONS else 0))
        return result

    def _hold(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0
        self._sizes[key] = size
        self.now += size
        self._known[key] = weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
        del self._known[key]


def _workspace(args: tuple[Any, ...], returned: list[Tensor]) -> int:
    """Return the bytes of copies of a convolution's tensors: libraries work in a layout of their own."""
    given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*given, *returned))


_LOW = frozenset(
    {
        *(torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        *(F.linear, F.bilinear, F.scaled_dot_product_attention, F.multi_head_attention_forward, torch.prelu, F.prelu),
        *(
            torch.matmul,
            torch.mm,
            torch.bmm,
            torch.addmm,
            torch.addbmm,
            torch.baddbmm,
            torch.einsum,
            torch.chain_matmul,
        ),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm),
    }
)
"""What autocast on a GPU computes in half precision."""

_HIGH = frozenset(
    {
        *(F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.normalize, torch.norm, Tensor.norm),
        *(F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax),
        *(F.softplus, torch.exp, Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow, Tensor.__pow__),
        *(torch.rsqrt, Tensor.rsqrt, torch.reciprocal, Tensor.reciprocal),
        *(torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum, torch.prod, Tensor.prod),
        *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.binary_cross_entropy_with_logits, F.cross_entropy),
    }
)
"""What it computes in float32."""


class GpuAutocast(TorchFunctionMode):
    """Within it, meta tensors have the types that autocast gives them on a GPU, whose own does nothing without one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LOW or func in _HIGH:
            dtype = self.dtype if func in _LOW else torch.float32
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)


class FusedAttention(TorchFunctionMode):
    """Within it, attention keeps what the kernels of GPUs and CPUs keep of it, and no matrix of all tokens.

    On the meta device torch would compute it step by step.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and len(args) == 3 and not kwargs:
            return _Attention.apply(*args)  # type: ignore[no-untyped-call]  # torch has no types there
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """The shapes of a fused attention, forward and backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_cast(item, dtype) for item in value) if type(value) in (list, tuple) else value
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def run_backward(loss: Tensor) -> None:
    """Do what `loss.backward()` does, which runs without the modes that are on: blocks are run again in it."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
