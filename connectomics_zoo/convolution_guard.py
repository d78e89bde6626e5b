"""Keeps 3-D convolutions in bfloat16 right on CPUs where torch computes some of them wrongly.

Where the CPU has AMX, torch (2.13 and before) takes for a bfloat16 convolution of volumes a kernel of oneDNN that is
wrong if the output is one voxel wide and the stride along that axis is more than 1: the relative error is about 1, and
nothing is said. Depthwise and 1x1x1 convolutions have kernels of their own and are right. The gradient of a transposed
convolution by its input is such a convolution, too, of an input that is one voxel wide.

https://github.com/pytorch/pytorch/issues/169688, https://github.com/pytorch/pytorch/pull/188426.
tests/test_convolution_guard.py says when this module can go.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def guard_convolutions(network: nn.Module) -> None:
    """Let the affected convolutions of `network`, which are tiny, run in float32; nothing else changes.

    Parameters, their names, copies, pickles and compilation stay as they are: it adds hooks, and only to modules that
    can be affected. Convolutions that the network computes without a module are not guarded.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and _can_be_affected(module):
            recompute = _recompute if isinstance(module, nn.Conv3d) else _recompute_for_gradient
            module.register_forward_hook(recompute, with_kwargs=True)


def _can_be_affected(module: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    depthwise = module.groups > 1 and module.groups == module.in_channels
    return module.stride[-1] > 1 and math.prod(module.kernel_size) > 1 and not depthwise


def _recompute(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor | None:
    """Forward hook of a convolution: return its output anew where it is wrong."""
    if output.dtype != torch.bfloat16 or output.device.type != "cpu" or output.shape[-1] != 1:
        return None
    return _in_float32(module, args, keywords)


def _recompute_for_gradient(
    module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor
) -> Tensor | None:
    """Forward hook of a transposed convolution: return its output anew where its gradient would be wrong."""
    if output.dtype != torch.bfloat16 or output.device.type != "cpu" or not output.requires_grad:
        return None
    x: Tensor = (*args, *keywords.values())[0]
    return _in_float32(module, args, keywords) if x.shape[-1] == 1 else None


def _in_float32(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    state = {name: tensor.float() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    with torch.autocast("cpu", enabled=False):
        result: Tensor = torch.func.functional_call(module, state, _floats(args), _floats(keywords))
    return result.bfloat16()


def _floats(values: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.float(), values)
