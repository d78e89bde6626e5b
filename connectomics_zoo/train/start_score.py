"""The score of the weights that a run starts from, before its first step."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.train.callbacks import KeepCheckpoint, KeepWeights, StopEarly
from connectomics_zoo.train.data import validation_loader
from connectomics_zoo.train.module import SegmentationModule


class ScoreStart(L.Callback):
    """Validates before the first step, and logs it as step 0; the training is the same with it and without.

    Where the weights that the run starts from have heads of their own, they count as any that were validated: if no
    step makes them better, they are kept. Comes last among a trainer's callbacks, since it has others write the state.

    Args:
        run: the complete run, with volumes to validate on.
        keep: keeps the best weights; None where the heads are new, whose score is one of chance, or the last are kept.
        early: counts the validations that were no better, where there is such a callback and the heads are not new.
        checkpoint: writes the state, without which weights would be those of a run that cannot be resumed.
        notify: is told the scores.
    """

    def __init__(
        self,
        run: RunSpec,
        *,
        keep: KeepWeights | None,
        early: StopEarly | None,
        checkpoint: KeepCheckpoint,
        notify: Callable[[str], None] | None,
    ) -> None:
        self.run = run
        self.keep = keep
        self.early = early
        self.checkpoint = checkpoint
        self.notify = notify
        self.metrics: dict[str, float] = {}
        """Metrics before the first step; empty until then."""

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Keep the first scores across a resume."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, dict[str, float]]) -> None:
        """Take up those of the run that is resumed."""
        self.metrics = state_dict["metrics"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score, log, and let the weights count."""
        assert isinstance(pl_module, SegmentationModule)
        if trainer.global_step > 0:
            return
        self.metrics = _score(trainer, pl_module, self.run)
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, step=0)
        if self.notify is not None:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
            self.notify(f"before the first step: {scores}")
        if self.early is not None:
            self.early.best = self.metrics[f"val/{self.run.task.metrics[0]}"]
        if self.keep is None:
            return
        self.keep.best = {**self.metrics, "step": 0.0}
        self.checkpoint.write(trainer)
        self.keep.write(trainer, pl_module, self.metrics)


def _score(trainer: L.Trainer, module: SegmentationModule, run: RunSpec) -> dict[str, float]:
    """Return the task's metrics, each as `val/<name>`; no random number of the run is drawn for it."""
    strategy = trainer.strategy
    module.eval()
    module.on_validation_epoch_start()
    with isolate_rng(), torch.inference_mode(), strategy.precision_plugin.val_step_context():
        loader = validation_loader(run)
        assert loader is not None
        for number, batch in enumerate(loader):
            module.validation_step(strategy.batch_to_device(batch), number)
    scores = module.scores()
    module.on_validation_epoch_start()
    module.train()
    return {f"val/{name}": score for name, score in scores.items()}
