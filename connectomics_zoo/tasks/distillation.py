"""How far a network is from its teacher where no truth is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.activations import _sigmoid_logits, activate


def distillation_loss(logits: Tensor, taught: Tensor, where: Tensor, *, task: TaskSpec) -> Tensor:
    """Return the distance between what a network and its teacher say of the same patch, a scalar.

    It is the Kullback-Leibler divergence of the network from the teacher (Hinton et al. 2015, temperature 1), and the
    squared error for channels that are no probabilities: the mean over the voxels `where` is True, summed over the
    channels. It is 0, and so is its gradient, where both say the same, and where there is no such voxel.

    Args:
        logits: (B, C, Z, Y, X), of the network.
        taught: the same shape, the teacher's values: `activate` of its logits.
        where: the same shape, True where the teacher is listened to; of the classes of a softmax, in how likely these
            are among themselves.
        task: the task, with C channels.
    """
    logits, taught = logits.float(), taught.float()
    values = activate(logits, task=task)
    terms: list[Tensor] = []
    for index, channel in enumerate(task.channels):
        if channel.activation == "softmax":
            continue
        said, wanted, here = values[:, index], taught[:, index], where[:, index]
        if channel.activation in ("sigmoid", "scaled_sigmoid"):
            given = _sigmoid_logits(logits[:, index], channel)
            entropy = torch.special.entr(wanted) + torch.special.entr(1 - wanted)
            terms.append(_mean(F.binary_cross_entropy_with_logits(given, wanted, reduction="none") - entropy, here))
        else:
            terms.append(_mean((said - wanted).square(), here))
    classes = [index for index, channel in enumerate(task.channels) if channel.activation == "softmax"]
    if classes:
        terms.append(_classes(logits[:, classes], taught[:, classes], where[:, classes]))
    return torch.stack(terms).sum()


def _classes(logits: Tensor, taught: Tensor, where: Tensor) -> Tensor:
    """The divergence of the probabilities among the classes that `where` has at a voxel (B, classes, Z, Y, X)."""
    here = where.any(dim=1)
    among = where | ~here.unsqueeze(1)  # all where there is none, which is left out: no logarithm of nothing
    wanted = taught.masked_fill(~among, 0)
    wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=torch.finfo(wanted.dtype).tiny)
    said = logits - logits.masked_fill(~among, -torch.inf).logsumexp(dim=1, keepdim=True)
    return _mean((-wanted * said - torch.special.entr(wanted)).sum(dim=1), here)


def _mean(costs: Tensor, where: Tensor) -> Tensor:
    """The mean where `where` is True, 0 where it is nowhere."""
    return costs.masked_fill(~where, 0).sum() / where.sum().clamp(min=1)
