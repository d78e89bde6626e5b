"""Activations: from logits to the values of a task's channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

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


def mean_logits(logits: Sequence[Tensor], *, task: TaskSpec) -> Tensor:
    """Return the logits (B, C, Z, Y, X) of which `activate` makes the mean of what it makes of each of `logits`.

    Without an activation, that is their mean; else it comes from sums of logarithms, so that it does not saturate where
    values are near 0 or 1.
    """
    values = torch.stack([one.float() for one in logits])
    softmax = list(task.softmax)
    mean = values.mean(dim=0)
    if softmax:
        # A constant on all classes changes nothing.
        mean[:, softmax] = values[:, :, softmax].log_softmax(dim=2).logsumexp(dim=0)
    for index, channel in enumerate(task.channels):
        # tanh(v) is 2 sigmoid(2 v) - 1.
        factor = {"sigmoid": 1.0, "scaled_sigmoid": SCALE, "tanh": 2.0}.get(channel.activation)
        if factor is not None:
            scaled = factor * values[:, :, index]
            yes, no = (functional.logsigmoid(part).logsumexp(dim=0) for part in (scaled, -scaled))
            mean[:, index] = (yes - no) / factor
    return mean


def _sigmoid_logits(logits: Tensor, channel: ChannelSpec) -> Tensor:
    """What a channel's sigmoid is taken of."""
    return SCALE * logits if channel.activation == "scaled_sigmoid" else logits
