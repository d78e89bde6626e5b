"""The loss of a task at one scale, and its sum over the scales of deep supervision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import LossSpec, TaskSpec
from connectomics_zoo.targets import is_continuous

DICE_EPSILON = 1.0
"""Added to both sides of the soft Dice, so that a batch without foreground has a finite gradient."""


def activate(logits: Tensor, *, task: TaskSpec) -> Tensor:
    """Return the values (B, C, Z, Y, X) that the task's activations make of logits, in float32."""
    values = logits.float()
    softmax = [index for index, channel in enumerate(task.channels) if channel.activation == "softmax"]
    probabilities = values[:, softmax].softmax(dim=1) if softmax else values
    channels = []
    for index, channel in enumerate(task.channels):
        if channel.activation == "sigmoid":
            channels.append(values[:, index].sigmoid())
        elif channel.activation == "softmax":
            channels.append(probabilities[:, softmax.index(index)])
        else:
            channels.append(values[:, index])
    return torch.stack(channels, dim=1)


def task_loss(logits: Tensor, targets: Tensor, *, task: TaskSpec) -> Tensor:
    """Return the task's loss at one scale, a scalar: the weighted terms of all channels.

    Args:
        logits: (B, C, Z, Y, X).
        targets: the same shape, values in 0..1.
        task: the task, with C channels.
    """
    logits = logits.float()
    values = activate(logits, task=task)
    softmax = [index for index, channel in enumerate(task.channels) if channel.activation == "softmax"]
    # Not the logarithm of the values: where those underflow, its gradient is zero or infinite.
    normaliser = logits[:, softmax].logsumexp(dim=1) if softmax else logits[:, 0]
    terms = [
        loss.weight * _term(loss, logits[:, index], values[:, index], targets[:, index], normaliser=normaliser)
        for index, channel in enumerate(task.channels)
        for loss in channel.losses
    ]
    return torch.stack(terms).sum()


def _term(loss: LossSpec, logits: Tensor, values: Tensor, targets: Tensor, *, normaliser: Tensor) -> Tensor:
    """One term of one channel (B, Z, Y, X); `normaliser` is the log-sum-exp of the softmax channels' logits."""
    if loss.kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, targets)
    if loss.kind == "dice":
        overlap = (values * targets).sum()
        return 1 - (2 * overlap + DICE_EPSILON) / (values.sum() + targets.sum() + DICE_EPSILON)
    if loss.kind == "cross_entropy":
        return (targets * (normaliser - logits)).mean()
    return F.mse_loss(values, targets)


def resize_targets(targets: Tensor, size: tuple[int, ...], *, task: TaskSpec) -> Tensor:
    """Return targets (B, C, Z, Y, X) at a smaller `size`: nearest for labels, trilinear for continuous values."""
    if tuple(targets.shape[2:]) == size:
        return targets
    linear = "trilinear" if len(size) == 3 else "bilinear"
    channels = [
        F.interpolate(targets[:, index : index + 1], size=size, mode=linear, align_corners=False)
        if continuous
        else F.interpolate(targets[:, index : index + 1], size=size, mode="nearest-exact")
        for index, continuous in enumerate(is_continuous(task))
    ]
    return torch.cat(channels, dim=1)


def supervised_losses(
    outputs: Tensor | Mapping[str, Tensor], targets: Tensor, *, model: ModelSpec, task: TaskSpec
) -> dict[str, Tensor]:
    """Return the loss at every scale by output name, and under `loss` their sum with the declared weights.

    Args:
        outputs: what the network returned: one tensor of logits, or a dict of them in training.
        targets: (B, C, Z, Y, X) at full resolution.
        model: declares the scales and their weights.
        task: the task.
    """
    by_name = {model.outputs[0].name: outputs} if isinstance(outputs, Tensor) else dict(outputs)
    weights = {output.name: output.loss_weight for output in model.outputs}
    losses = {
        name: task_loss(logits, resize_targets(targets, tuple(logits.shape[2:]), task=task), task=task)
        for name, logits in by_name.items()
    }
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    return {"loss": total, **losses}
