"""Keeps convolutions in bfloat16 right on CPUs where torch computes some of them wrongly.

Two faults of the kernels that torch (2.13 and before) takes from oneDNN; in both nothing is said, and both leave
float32, depthwise and 1x1x1 convolutions alone:

- Where the CPU has AMX: 3-D convolutions whose output is one voxel wide, with a stride of more than 1 along that axis.
  The relative error is about 1. The gradient of a transposed convolution by its input is such a convolution, too.
  https://github.com/pytorch/pytorch/issues/169688, https://github.com/pytorch/pytorch/pull/188426
- Where it has AVX-512: the gradient by the weights where the input is smaller than the kernel along an axis, as at the
  bottleneck of a deep network. It holds values of uninitialised memory, often infinite, and the kernel can write
  outside of its memory. Found with torch 2.13 on an AMD Zen 5.

tests/network/test_convolution_guard.py says whether the machine that it runs on has them, and when this module can go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def guard_convolutions(network: nn.Module) -> None:
    """Let those convolutions of `network` run in float32 that go wrong in bfloat16: all are tiny, or nearly so.

    It adds hooks to the modules that can be affected, and changes nothing else: parameters and their names, copies,
    pickles, compilation and export stay as they are. Convolutions without a module are not guarded.
    """
    for module in network.modules():
        if isinstance(module, Convolution) and math.prod(module.kernel_size) > 1 and not _is_depthwise(module):
            module.register_forward_hook(_recompute_affected, with_kwargs=True)


def _is_depthwise(module: Convolution) -> bool:
    return module.groups > 1 and module.groups == module.in_channels


def _recompute_affected(
    module: Convolution, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor
) -> Tensor | None:
    """Forward hook: return the output anew, in float32, where it is wrong or its gradients would be."""
    if output.dtype != torch.bfloat16 or output.device.type != "cpu":
        return None
    x: Tensor = (*args, *keywords.values())[0]
    rank = len(module.kernel_size)
    is_transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
    fine, coarse = (output, x) if is_transposed else (x, output)
    is_narrow = rank == 3 and coarse.shape[-1] == 1 and module.stride[-1] > 1
    is_short = _is_smaller_than_kernel(fine.shape[-rank:], module)
    if (is_narrow and not is_transposed) or (output.requires_grad and (is_narrow or is_short)):
        return _in_float32(module, args, keywords)
    return None


def _is_smaller_than_kernel(size: Sequence[int], module: Convolution) -> bool:
    spans = [(edge - 1) * step + 1 for edge, step in zip(module.kernel_size, module.dilation, strict=True)]
    return any(extent < span for extent, span in zip(size, spans, strict=True))


def _in_float32(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    # The module's own forward, by which it may do more than a convolution; the hook lets float32 pass.
    arguments = (dict(module.named_parameters()), dict(module.named_buffers()), args, keywords)
    parameters, buffers, args, keywords = tree_map_only(Tensor, Tensor.float, arguments)
    with torch.autocast("cpu", enabled=False):
        result: Tensor = torch.func.functional_call(module, (parameters, buffers), args, keywords)
    return result.bfloat16()
