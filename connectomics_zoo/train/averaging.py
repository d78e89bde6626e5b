"""A running average of the weights that are trained, which is validated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from connectomics_zoo.train.module import SegmentationModule


class AverageWeights(L.Callback):
    """Averages the trained weights over the optimiser steps, and puts the average in their place for validations.

    The average forgets fast at first: its decay is min(decay, (1 + n) / (10 + n)) after n steps (as in TensorFlow's
    ExponentialMovingAverage), so that the initialisation leaves no trace. Buffers are not averaged, the network's own
    stay in place. Comes first among a trainer's callbacks: the others see the average as it is after the step.

    Args:
        decay: weight of the past, in 0..1.
    """

    def __init__(self, *, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        """The averaged weights by name; the trained ones while the average is in their place."""
        self.updates = 0
        """Optimiser steps that are in the average."""
        self.step = 0
        """The trainer's step at the last of them."""
        self.active = False
        """Whether the average is in the place of the weights."""

    def state_dict(self) -> dict[str, Any]:
        """Keep the average across a resume."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the average of the run that is resumed."""
        self.average, self.updates = state_dict["average"], state_dict["updates"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the weights as they are, unless there is an average to go on with."""
        self.step = trainer.global_step
        fresh = {name: weight.detach().clone() for name, weight in _trained(pl_module).items()}
        for name, weight in fresh.items():
            if name in self.average:
                weight.copy_(self.average[name])
        self.average = fresh

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """Take the weights into the average, if this batch ended a step."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(_trained(pl_module).values()), 1 - decay)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average."""
        self._exchange(pl_module, active=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with the weights."""
        self._exchange(pl_module, active=False)

    @contextmanager
    def in_place(self, module: L.LightningModule) -> Iterator[None]:
        """Within it, the network has the averaged weights."""
        before = self.active
        self._exchange(module, active=True)
        try:
            yield
        finally:
            self._exchange(module, active=before)

    def _exchange(self, module: L.LightningModule, *, active: bool) -> None:
        """Put the average in the place of the weights, or the weights back, unless they are there."""
        if self.active == active:
            return
        self.active = active
        weights, average = list(_trained(module).values()), list(self.average.values())
        with torch.no_grad():
            held = [weight.clone() for weight in weights]
            torch._foreach_copy_(weights, average)
            torch._foreach_copy_(average, held)


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    """Return the weights that are trained, by name."""
    assert isinstance(module, SegmentationModule)
    return {name: weight for name, weight in module.network.named_parameters() if weight.requires_grad}
