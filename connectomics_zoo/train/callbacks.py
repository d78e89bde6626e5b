"""What happens beside the steps: progress, checkpoints for resuming, and the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from connectomics_zoo.runs.checkpoint import has_checkpoint, write_checkpoint
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.train.averaging import AverageWeights
from connectomics_zoo.train.curve import draw_curve
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.stopping import StopBetweenSteps, is_validated
from connectomics_zoo.weights.storage import write_weights

SECONDS_OF_A_CURVE = 2.0
"""How long a drawn curve is left to be looked at, at least."""


class ReportProgress(L.Callback):
    """Calls `report` before the first step, and after every step and validation.

    Args:
        report: is called; KeyboardInterrupt that it raises is taken as the signal.
        stop: ends the run then.
    """

    def __init__(self, report: Callable[[Progress], None], *, stop: StopBetweenSteps) -> None:
        self.report = report
        self.stop = stop
        self.last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report where the run begins, or goes on."""
        self.last_step = trainer.global_step
        self._report(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """Report the step that has just ended, if this batch ended one."""
        if trainer.global_step > self.last_step:
            self.last_step = trainer.global_step
            self._report(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the new metrics."""
        if not trainer.sanity_checking:
            self._report(trainer)

    def _report(self, trainer: L.Trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        numbers = {"loss": metrics["train/loss"]} if "train/loss" in metrics else {}
        numbers |= {name: value for name, value in metrics.items() if name.startswith("val/")}
        try:
            self.report(Progress(trainer.global_step, trainer.max_steps, unit="steps", numbers=numbers))
        except KeyboardInterrupt:
            self.stop.ask()


class KeepWeights(L.Callback):
    """Writes `model.safetensors` whenever `metric` improves; without one, with every checkpoint and at the end.

    Args:
        folder: the run folder.
        metric: what is compared, higher is better.
        every: steps between the weights that are kept without a metric.
        average: keeps the average that is written in the place of the weights.
    """

    def __init__(self, folder: Path, *, metric: str | None, every: int, average: AverageWeights | None = None) -> None:
        self.folder = folder
        self.metric = metric
        self.every = every
        self.average = average
        self.best: dict[str, float] = {}
        """Metrics and step of the weights that are kept; empty before the first ones."""

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Keep the best score across a resume."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, dict[str, float]]) -> None:
        """Take up the best score of the run that is resumed."""
        self.best = state_dict["best"]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """Without a metric, keep the newest weights."""
        step = trainer.global_step
        is_due = step % min(self.every, trainer.max_steps) == 0
        if self.metric is None and step > self.best.get("step", 0) and is_due:
            self.write(trainer, pl_module, {})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best so far; without a metric, the scores of those that were just kept."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if self.metric is None:
            if self.best.get("step") == trainer.global_step:
                self.best = {**metrics, **self.best}
            return
        key = f"val/{self.metric}"
        if key not in self.best or metrics[key] >= self.best[key]:
            self.write(trainer, pl_module, metrics)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Without a metric, or where the run was too short for a validation, keep the last weights."""
        is_kept = self.metric is None and self.best.get("step") == trainer.global_step
        if not is_kept and (self.metric is None or not self.best):
            self.write(trainer, pl_module, {})

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, metrics: dict[str, float]) -> None:
        """Keep the weights as they are now, with these metrics."""
        assert isinstance(pl_module, SegmentationModule)
        with self.average.in_place(pl_module) if self.average is not None else nullcontext():
            write_weights(pl_module.network, self.folder / WEIGHTS_FILE)
        self.best = {**metrics, "step": float(trainer.global_step)}


class StopEarly(L.Callback):
    """Ends the run after `patience` validations in a row without a better `metric`."""

    def __init__(self, *, metric: str, patience: int) -> None:
        self.metric = metric
        self.patience = patience
        self.best = float("-inf")
        self.waited = 0
        """Validations in a row without a better score."""
        self.stopped = False
        """Whether it was this that ended the run."""

    def state_dict(self) -> dict[str, float]:
        """Keep what was waited for across a resume."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on waiting where the run that is resumed was."""
        self.best, self.waited = state_dict["best"], int(state_dict["waited"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the new score with the best one."""
        score = float(trainer.callback_metrics[f"val/{self.metric}"])
        better = score > self.best
        self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        if self.waited >= self.patience:
            self.stopped = trainer.should_stop = True


class DrawCurve(L.Callback):
    """Draws the curve of the run after validations; the last one is drawn when the run has ended.

    Args:
        folder: the run folder.
        title: name of the run.
        metric: the validation metric.
        table: the log that the curve is drawn from, which holds its last rows back.
    """

    def __init__(self, folder: Path, *, title: str, metric: str, table: CSVLogger) -> None:
        self.folder = folder
        self.title = title
        self.metric = metric
        self.table = table
        self.drawn_at = time.monotonic()
        """When it was drawn, or the run began."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw it with this validation in it."""
        if trainer.global_step >= trainer.max_steps or time.monotonic() < self.drawn_at + SECONDS_OF_A_CURVE:
            return
        self.table.save()
        draw_curve(self.folder, title=self.title, metric=self.metric)
        self.drawn_at = time.monotonic()


class KeepCheckpoint(L.Callback):
    """Writes the checkpoint for resuming every `every` steps, at the end, and when the run is stopped.

    Comes after the callbacks whose state it holds. It also holds the state of torch's random numbers, from which
    dropout is drawn.

    Args:
        folder: the run folder.
        every: steps between two checkpoints.
        accumulate: batches in a step.
        stop: knows whether a step is in work.
    """

    def __init__(self, folder: Path, *, every: int, accumulate: int, stop: StopBetweenSteps) -> None:
        self.folder = folder
        self.every = every
        self.accumulate = accumulate
        self.stop = stop
        self.started = False
        self.written_at = -1
        self.random: dict[str, Tensor] = {}
        """States of torch's generators in the run that is resumed, by device."""

    def state_dict(self) -> dict[str, Tensor]:
        """Keep the random numbers across a resume."""
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take up the random numbers of the run that is resumed, when its first step begins."""
        self.random = state_dict

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A new run has its state from here on, and can be stopped before its first step."""
        self.started = trainer.ckpt_path is None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on the trainer holds the run's state: a resumed checkpoint has been read."""
        self.started = True
        self.written_at = trainer.global_step if has_checkpoint(self.folder) else -1
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"])

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """Write at every `every`-th step, unless a validation follows that belongs to the state."""
        step = trainer.global_step
        if step > 0 and step % self.every == 0 and not trainer.enable_validation:
            self.write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state with this validation in it."""
        self.write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last state."""
        self.write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the state in which the run was stopped, by a signal or a damaged volume; not that within a step."""
        if self.started and not self.stop.in_work:
            self.write(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count whole steps alone: where the run was stopped, Lightning had counted the next batch, or not yet this."""
        state, steps = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
        batches = state["epoch_loop.batch_progress"]
        for count in (batches["total"], batches["current"]):
            count.update(dict.fromkeys(count, steps * self.accumulate))
        # Where the last step ended in a validation, Lightning passes through its end once more, and counts it again.
        validated = is_validated(trainer, step=steps, every=self.every)
        state["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - validated

    def write(self, trainer: L.Trainer) -> None:
        """Write the state as it is now, unless it is written."""
        if self.written_at == trainer.global_step:
            return
        write_checkpoint(self.folder, trainer.save_checkpoint)
        self.written_at = trainer.global_step
