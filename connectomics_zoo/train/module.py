"""The LightningModule: a network, its task's loss over the declared scales, and validation over whole regions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.scores.scores import balanced_accuracy, overlap_scores
from connectomics_zoo.tasks.activations import activate
from connectomics_zoo.tasks.losses import supervised_losses
from connectomics_zoo.train.freezing import freeze
from connectomics_zoo.train.optimizer import make_optimizer, make_schedule
from connectomics_zoo.train.patches import Patch
from connectomics_zoo.train.teacher import Teacher


class SegmentationModule(L.LightningModule):
    """Trains `network` as `run` says.

    Args:
        run: the complete run.
        network: the network of `run.model`.
        loaded: its tensors that came with the weights that the run starts from.
        teacher: what says something of voxels that are not annotated, where the run has a teacher.
    """

    def __init__(
        self, run: RunSpec, network: nn.Module, *, loaded: Collection[str] = (), teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.run = run
        self.network = network
        self.loaded = frozenset(loaded)
        self.teacher = teacher
        self.frozen_norms = freeze(network, run)
        self.counts = torch.zeros(len(run.task.channels), 4, dtype=torch.float64)
        """True positives, false positives, false negatives and true negatives of each channel in this validation."""

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, C, Z, Y, X) -> what the network returns."""
        outputs: Tensor | dict[str, Tensor] = self.network(x)
        return outputs

    def train(self, mode: bool = True) -> SegmentationModule:
        """As ever, but the running statistics of frozen norms stay as they are."""
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def on_fit_start(self) -> None:
        """Bring the teacher, which is no part of the module, to its device."""
        if self.teacher is not None:
            self.teacher.network.to(self.device)

    def training_step(self, batch: Patch, batch_index: int) -> Tensor:
        """Return the summed loss; log it for each scale."""
        image = _as_network_input(batch.image)
        outputs = self(image)
        losses = supervised_losses(outputs, batch.targets, batch.mask, model=self.run.model, task=self.run.task)
        if self.teacher is not None:
            logits = outputs if isinstance(outputs, Tensor) else outputs[self.run.model.outputs[0].name]
            losses["distillation"] = self.teacher.loss(image, logits, batch.mask)
            losses["loss"] = losses["loss"] + self.teacher.weight * losses["distillation"]
        for name, loss in losses.items():
            self.log("train/loss" if name == "loss" else f"train/loss_{name}", loss.detach())
        if not torch.isfinite(losses["loss"]):
            raise FloatingPointError(f"the loss is {losses['loss'].item()} at step {self.global_step}")
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the last validation."""
        self.counts.zero_()

    def validation_step(self, batch: Patch, batch_index: int) -> None:
        """Count hits and misses where the mask is True."""
        values = activate(self(_as_network_input(batch.image)), task=self.run.task)
        decode = self.run.task.decode
        if decode.method == "argmax":
            winner = values.argmax(dim=1, keepdim=True)
            found = winner == torch.arange(values.shape[1], device=values.device).view(1, -1, 1, 1, 1)
        else:
            found = values > decode.cut
        truth = batch.targets > 0.5
        groups = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
        self.counts += (
            torch.stack([(group & batch.mask).sum(dim=(0, 2, 3, 4)) for group in groups], dim=1).double().cpu()
        )

    def on_validation_epoch_end(self) -> None:
        """Log the task's metrics."""
        for name, score in self.scores().items():
            self.log(f"val/{name}", score)

    def scores(self) -> dict[str, float]:
        """Return the task's metrics of what was counted, as the mean over its scored channels.

        A channel of which nothing is known has no score. Of a task of several classes, those alone that have a voxel
        count, unless none has one; and the first metric of each is beside the mean, as `dice_mito`.
        """
        task = self.run.task
        known = [index for index in task.scored if self.counts[index].any()]
        there = [index for index in known if task.has_classes and self.counts[index, [0, 2]].any()]
        scores = {index: self._scores_of(index) for index in known or task.scored}
        averaged = [scores[index] for index in there or scores]
        names: tuple[str, ...] = task.metrics
        means = {name: sum(score[name] for score in averaged) / len(averaged) for name in names}
        return means | {f"{names[0]}_{task.channels[index].name}": scores[index][names[0]] for index in there}

    def _scores_of(self, index: int) -> dict[str, float]:
        hits, false_alarms, misses, rejections = self.counts[index].long().tolist()
        found = {"true_positive": hits, "false_positive": false_alarms, "false_negative": misses}
        return {**overlap_scores(**found), "balanced_accuracy": balanced_accuracy(**found, true_negative=rejections)}

    def configure_optimizers(self) -> Any:
        """Return AdamW and the recipe's schedule."""
        recipe = self.run.training
        optimizer = make_optimizer(self.network, recipe, loaded=self.loaded)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": make_schedule(optimizer, recipe), "interval": "step"},
        }


def lay_channels_last(network: nn.Module) -> None:
    """Lay the weights of 3-D convolutions so; beside them a network may have others, of 2-D ones, that cannot."""
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)


def _as_network_input(image: Tensor) -> Tensor:
    """Channels last on the CPU, where convolutions are about twice as fast that way."""
    if image.device.type == "cpu":
        return image.to(memory_format=torch.channels_last_3d)
    return image
