"""AdamW as the recipe has it: its groups of weights, and how their rates rise and fall."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from connectomics_zoo.schema.training import TrainingSpec


def make_optimizer(network: nn.Module, recipe: TrainingSpec, *, loaded: Collection[str]) -> torch.optim.Optimizer:
    """Return AdamW over what is trained of `network`: one group, or what was loaded and what is new.

    Args:
        network: the network, whose frozen weights want no gradient.
        recipe: rates and decay.
        loaded: the tensors that came with the weights that the run starts from, by their names in the network.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trainable}]
    if recipe.loaded_learning_rate is not None:
        names = network.named_parameters(remove_duplicate=False)
        known = {id(parameter) for name, parameter in names if name in loaded}
        old = [parameter for parameter in trainable if id(parameter) in known]
        new = [parameter for parameter in trainable if id(parameter) not in known]
        groups = [{"params": old, "lr": recipe.loaded_learning_rate}, {"params": new}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: TrainingSpec) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a linear warm-up and the recipe's schedule after it, as a factor of every group's rate."""

    def factor(step: int) -> float:
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        if recipe.schedule == "constant":
            return 1.0
        progress = (step - recipe.warmup_steps) / max(1, recipe.max_steps - recipe.warmup_steps)
        return 0.5 * (1 + float(torch.cos(torch.tensor(min(1.0, progress) * torch.pi))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
