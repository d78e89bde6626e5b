"""The loss of a task at one scale, and its sum over the scales of deep supervision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from connectomics_zoo.errors import InputSizeError
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import LossSpec, TaskSpec
from connectomics_zoo.tasks.activations import _sigmoid_logits, activate
from connectomics_zoo.tasks.targets import is_continuous

DICE_EPSILON = 1.0
"""Added to both sides of the soft Dice, so that a batch without foreground has a finite gradient."""


MOST_WEIGHT = 10.0
"""Weight of the rarer class in balanced cross-entropy, at most."""


def task_loss(logits: Tensor, targets: Tensor, known: Tensor | None = None, *, task: TaskSpec) -> Tensor:
    """Return the task's loss at one scale, a scalar: the weighted terms of all channels over what is known.

    A channel of which nothing is known costs nothing and has the gradient 0. In a softmax, a voxel of which it is known
    that it is none of some classes, and not which of the others, costs the cross-entropy of those others as one class:
    the marginal loss of Shi et al. 2021, "Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation", Medical Image Analysis 70.

    Args:
        logits: (B, C, Z, Y, X).
        targets: the same shape; values in 0..1, of a distance in -1..1.
        known: the same shape, False where the target must not matter; None where all of it counts.
        task: the task, with C channels.
    """
    logits = logits.float()
    known = torch.ones_like(targets, dtype=torch.bool) if known is None else known
    targets = targets.masked_fill(~known, 0)
    values = activate(logits, task=task)
    softmax = list(task.softmax)
    # Not the logarithm of the values: where those underflow, its gradient is zero or infinite.
    normaliser = logits[:, softmax].logsumexp(dim=1) if softmax else logits[:, 0]
    terms: list[Tensor] = []
    for index, channel in enumerate(task.channels):
        parts = (_sigmoid_logits(logits[:, index], channel), values[:, index], targets[:, index], known[:, index])
        terms.extend(loss.weight * _term(loss, *parts, normaliser=normaliser) for loss in channel.losses)
    if softmax:
        terms.extend(_marginal(logits[:, softmax], targets[:, softmax], known[:, softmax], _entropy_weights(task)))
    return torch.stack(terms).sum()


def _entropy_weights(task: TaskSpec) -> list[float]:
    """The weight of the cross-entropy of each softmax channel."""
    return [
        sum(loss.weight for loss in task.channels[index].losses if loss.kind == "cross_entropy")
        for index in task.softmax
    ]


def _marginal(logits: Tensor, targets: Tensor, known: Tensor, weights: list[float]) -> list[Tensor]:
    """The cross-entropy of the classes that a voxel may be as one class, where it is not known which; else no term.

    Args:
        logits: of the softmax channels (B, C, Z, Y, X).
        targets: of the same shape.
        known: of the same shape; a class that is not known is one that the voxel may be.
        weights: of the classes; a voxel has the mean of those that it may be.
    """
    is_open = known.any(dim=1) & ~known.all(dim=1) & ~(targets > 0.5).any(dim=1)
    if not is_open.any() or not any(weights):
        return []
    everything, rest = logits.movedim(1, -1)[is_open], ~known.movedim(1, -1)[is_open]
    costs = everything.logsumexp(dim=-1) - everything.masked_fill(~rest, -torch.inf).logsumexp(dim=-1)
    shares = (rest * torch.tensor(weights, device=logits.device)).sum(dim=-1) / rest.sum(dim=-1)
    return [(shares * costs).sum() / known.any(dim=1).sum()]


def _term(
    loss: LossSpec, logits: Tensor, values: Tensor, targets: Tensor, known: Tensor, *, normaliser: Tensor
) -> Tensor:
    """One term of one channel (B, Z, Y, X); `normaliser` is the log-sum-exp of the softmax channels' logits."""
    if loss.kind == "dice":
        overlap = (values * targets).masked_fill(~known, 0).sum()
        both = (values + targets).masked_fill(~known, 0).sum()
        return 1 - (2 * overlap + DICE_EPSILON) / (both + DICE_EPSILON)
    if loss.kind == "bce":
        costs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    elif loss.kind == "balanced_bce":
        costs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        costs = costs * _class_weights(targets, known)
    elif loss.kind == "cross_entropy":
        costs = targets * (normaliser - logits)
    elif loss.kind == "smooth_l1":
        costs = F.smooth_l1_loss(values, targets, reduction="none")
    else:
        assert loss.kind == "mse", loss.kind
        costs = F.mse_loss(values, targets, reduction="none")
    return costs.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


def _class_weights(targets: Tensor, known: Tensor) -> Tensor:
    """The weight of every voxel: 1 in the more frequent class, in the rarer one what makes the two count alike."""
    # As integers: float32 does not count beyond 2**24. Targets that are not known are 0.
    yes = (targets > 0.5).sum()
    no = known.sum() - yes
    weight_yes = (no / yes.clamp(min=1)).clamp(1, MOST_WEIGHT)
    weight_no = (yes / no.clamp(min=1)).clamp(1, MOST_WEIGHT)
    return weight_no + (weight_yes - weight_no) * targets


def resize_targets(
    targets: Tensor, known: Tensor | None = None, *, size: tuple[int, ...], task: TaskSpec
) -> tuple[Tensor, Tensor]:
    """Return targets (B, C, Z, Y, X) at a smaller `size`, and where these are known.

    Labels and `known` are those of the nearest voxel; continuous values are interpolated between known ones.
    """
    known = torch.ones_like(targets, dtype=torch.bool) if known is None else known
    if tuple(targets.shape[2:]) == size:
        return targets, known
    linear = "trilinear" if len(size) == 3 else "bilinear"
    smaller = F.interpolate(known.to(targets.dtype), size=size, mode="nearest-exact") > 0
    channels = []
    for index, continuous in enumerate(is_continuous(task)):
        channel = targets[:, index : index + 1]
        if continuous:
            weights = known[:, index : index + 1].to(targets.dtype)
            # What is not known may be anything, even NaN.
            total = F.interpolate(channel.masked_fill(weights == 0, 0), size=size, mode=linear, align_corners=False)
            share = F.interpolate(weights, size=size, mode=linear, align_corners=False)
            channels.append(torch.where(share > 0, total / share, 0))
        else:
            channels.append(F.interpolate(channel, size=size, mode="nearest-exact"))
    return torch.cat(channels, dim=1), smaller


def _without_context(values: Tensor, model: ModelSpec, size: tuple[int, ...]) -> Tensor:
    """Return the middle of values (B, C, Z, Y, X) that the network says something of, `size` voxels."""
    given = tuple(values.shape[2:])
    if given == size:
        return values
    if model.input.given(given) != size:
        raise InputSizeError(
            f"{model.name} says something of {list(size)} voxels and the targets have {list(given)}: give them as "
            "large, or as large as the input."
        )
    inner: tuple[Any, ...] = (..., *model.input.inner)
    return values[inner]


def supervised_losses(
    outputs: Tensor | Mapping[str, Tensor],
    targets: Tensor,
    known: Tensor | None = None,
    *,
    model: ModelSpec,
    task: TaskSpec,
) -> dict[str, Tensor]:
    """Return the loss at every scale by output name, and under `loss` their sum with the declared weights.

    Args:
        outputs: what the network returned: one tensor of logits, or a dict of them in training.
        targets: (B, C, Z, Y, X) at full resolution; of a network with a context, as large as its output, or as its
            input, of which the middle counts.
        known: the same shape, see `task_loss`.
        model: declares the scales and their weights.
        task: the task.
    """
    by_name = {model.outputs[0].name: outputs} if isinstance(outputs, Tensor) else dict(outputs)
    weights = {output.name: output.loss_weight for output in model.outputs}
    if model.input.context is not None:
        size = tuple(by_name[model.outputs[0].name].shape[2:])
        targets = _without_context(targets, model, size)
        known = None if known is None else _without_context(known, model, size)
    losses = {}
    for name, logits in by_name.items():
        scaled, scaled_known = resize_targets(targets, known, size=tuple(logits.shape[2:]), task=task)
        losses[name] = task_loss(logits, scaled, scaled_known, task=task)
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    return {"loss": total, **losses}
