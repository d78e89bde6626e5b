"""Weights and inputs that follow from a tensor's name and shape alone, so that a probe needs no stored tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def seeded_array(name: str, shape: tuple[int, ...], *, channel_vectors: Collection[str] = ()) -> NDArray[np.float32]:
    """Return the float32 values of the tensor called `name` with `shape`.

    The input is N(0, 1); weights of two or more axes are N(0, 1 / fan_in) with fan_in = prod(shape[1:]), except those
    whose last name is among `channel_vectors`; one-axis `*.weight` (scales of norms) are 1 + 0.1 N(0, 1); everything
    else is 0.1 N(0, 1).
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(size=shape, dtype=np.float64)
    if len(shape) >= 2 and name != "input" and name.rpartition(".")[2] not in channel_vectors:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1.0 + 0.1 * values
    elif name != "input":
        values = 0.1 * values
    return cast("NDArray[np.float32]", values.astype(np.float32))


def seed_parameters(network: nn.Module, *, channel_vectors: Collection[str] = ()) -> None:
    """Overwrite every parameter of `network`; buffers (running statistics, indices) keep their initial values.

    Args:
        network: the network.
        channel_vectors: what its builder declares as such, see `seeded_array`.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = seeded_array(name, tuple(parameter.shape), channel_vectors=channel_vectors)
            parameter.copy_(torch.from_numpy(values))


def seeded_input(shape: tuple[int, ...]) -> Tensor:
    """Return the input tensor (B, C, Z, Y, X) of `shape`."""
    return torch.from_numpy(seeded_array("input", shape))
