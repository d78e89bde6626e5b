"""Activations: from logits to the values of a task's channels."""

from __future__ import annotations

import torch
from torch import Tensor

from connectomics_zoo.schema.task import ChannelSpec, TaskSpec

SCALE = 0.2
"""Factor of the logits in a scaled sigmoid."""


def activate(logits: Tensor, *, task: TaskSpec) -> Tensor:
    """Return the values (B, C, Z, Y, X) that the task's activations make of logits, in float32."""
    values = logits.float()
    softmax = list(task.softmax)
    probabilities = values[:, softmax].softmax(dim=1) if softmax else values
    channels = []
    for index, channel in enumerate(task.channels):
        if channel.activation in ("sigmoid", "scaled_sigmoid"):
            channels.append(_sigmoid_logits(values[:, index], channel).sigmoid())
        elif channel.activation == "softmax":
            channels.append(probabilities[:, softmax.index(index)])
        elif channel.activation == "tanh":
            channels.append(values[:, index].tanh())
        else:
            assert channel.activation == "none", channel.activation
            channels.append(values[:, index])
    return torch.stack(channels, dim=1)


def _sigmoid_logits(logits: Tensor, channel: ChannelSpec) -> Tensor:
    """What a channel's sigmoid is taken of."""
    return SCALE * logits if channel.activation == "scaled_sigmoid" else logits
