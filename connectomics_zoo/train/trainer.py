"""Runs a complete, checked run with Lightning, and writes its folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from connectomics_zoo.errors import (
    CheckFailedError,
    LimitError,
    UnknownNameError,
    ZooError,
)
from connectomics_zoo.fit.run import refuse_what_cannot_fit
from connectomics_zoo.network.build import with_counts
from connectomics_zoo.network.hardware import cpu_has_bfloat16, cuda_has_bfloat16, is_out_of_memory
from connectomics_zoo.network.threads import usable_cores
from connectomics_zoo.predict.run import check_views
from connectomics_zoo.runs.checkpoint import Checkpoint, has_checkpoint, read_checkpoint
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, CURVE_FILE, LOGS, write_run
from connectomics_zoo.runs.load_report import loaded_tensors, read_load_report, write_load_report
from connectomics_zoo.runs.logs import drop_old_logs, set_log_aside
from connectomics_zoo.runs.metrics import has_metrics, write_metrics
from connectomics_zoo.schema.builder import prefers_bfloat16
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.training import TrainingPrecision
from connectomics_zoo.train.averaging import AverageWeights
from connectomics_zoo.train.callbacks import DrawCurve, KeepCheckpoint, KeepWeights, ReportProgress, StopEarly
from connectomics_zoo.train.checkpoint_writer import WriteInPlace
from connectomics_zoo.train.curve import draw_curve
from connectomics_zoo.train.data import training_loader, validation_loader
from connectomics_zoo.train.initial import Start, first_network, has_heads
from connectomics_zoo.train.module import SegmentationModule, lay_channels_last
from connectomics_zoo.train.report import TrainReport
from connectomics_zoo.train.start_score import ScoreStart
from connectomics_zoo.train.stopping import StopBetweenSteps
from connectomics_zoo.train.teacher import find_teacher

_log = logging.getLogger(__name__)


def fit_run(
    run: RunSpec,
    *,
    folder: Path | None,
    resume: bool,
    device: str,
    progress: Callable[[Progress], None] | None,
    notify: Callable[[str], None] | None,
) -> TrainReport:
    """Train what `run` states, and return where it lies; see `train`.

    Args:
        run: a complete run whose volumes have been looked at.
        folder: its folder, whose lock this process holds; None does two steps and leaves nothing.
        resume: go on from the folder's checkpoint.
        device: `auto`, `cpu`, `cuda` or `mps`.
        progress: is told of every step and validation.
        notify: is told what became of the weights to start from, and why the run ended early.
    """
    check_views(run)  # which would be found when the training is over
    checkpoint = read_checkpoint(folder) if resume and folder is not None and has_checkpoint(folder) else None
    if folder is not None and checkpoint is not None and (end := _end_of(checkpoint, run)) is not None:
        return _finish_again(run, folder, checkpoint, end=end, notify=notify)
    resume = checkpoint is not None
    L.seed_everything(run.training.seed, workers=True, verbose=False)
    start = first_network(run, resume=resume)
    teacher = find_teacher(run, start, folder=folder if resume else None)
    if start.report is not None and notify is not None:
        notify(f"starts from {start.report.summary()}")
    network = start.network
    run = run.model_copy(update={"model": with_counts(run.model)})
    precision, accelerator = training_precision(run.training.precision, device, model=run.model)
    run = run.model_copy(update={"trained_on": _trained_on(run, f"{_device_name(accelerator)}, {precision}", resume)})
    warn_of_waiting(run.training.workers, accelerator=accelerator)
    if accelerator == "cpu":
        for part in (network, *(() if teacher is None else (teacher.network,))):
            lay_channels_last(part)
    module = SegmentationModule(run, network, loaded=_loaded(run, start, folder), teacher=teacher)
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    refuse_what_cannot_fit(run, device=accelerator, precision=precision, frozen=frozen)
    if folder is None:
        steps = 2 * run.training.accumulate
        with _quiet():
            trainer = _trainer(run, precision, accelerator, fast_dev_run=steps, callbacks=[], loggers=[])
        _fit(trainer, module, run, checkpoint=None, steps_done=0)
        return TrainReport(folder=Path(), steps=trainer.global_step, metrics={})

    write_run(run, folder)
    if start.report is not None:
        report = {**asdict(start.report), "adapted": dict(start.report.adapted), "sha256": start.sha256}
        write_load_report(folder, report)
    steps_done = 0 if checkpoint is None else checkpoint.steps
    loggers = _loggers(folder, steps_done=steps_done)
    stop = StopBetweenSteps(every=run.training.validate_every, notify=notify)
    callbacks = _callbacks(run, folder, progress, stop=stop, table=loggers[0], notify=notify)
    with _quiet():
        trainer = _trainer(run, precision, accelerator, fast_dev_run=0, callbacks=callbacks, loggers=loggers)
    try:
        with stop.listening():
            _fit(trainer, module, run, checkpoint=folder / CHECKPOINT_FILE if resume else None, steps_done=steps_done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_advice_after_stop(folder)) from None
    by_name = {type(item).__name__: item.state_dict() for item in callbacks}
    result = _report(folder, steps=trainer.global_step, callbacks=by_name)
    _finish(result, run)
    if notify is not None and any(isinstance(item, StopEarly) and item.stopped for item in callbacks):
        notify(_early_end(result, run))
    if notify is not None and result.start and result.metrics["step"] == 0:
        notify(f"{folder}: no validation was better than the weights that it started from, which are kept (step 0).")
    return result


def _report(folder: Path, *, steps: int, callbacks: Mapping[str, Any]) -> TrainReport:
    """Return the report of a run of whose callbacks this is the state."""
    start = callbacks.get("ScoreStart", {"metrics": {}})["metrics"]
    return TrainReport(folder=folder, steps=steps, metrics=dict(callbacks["KeepWeights"]["best"]), start=dict(start))


def _loaded(run: RunSpec, start: Start, folder: Path | None) -> Collection[str]:
    """Return the tensors that came with the weights that `run` starts from; of a run that goes on, from its folder."""
    if run.training.loaded_learning_rate is None:
        return ()
    if start.report is None:
        assert folder is not None
        return loaded_tensors(folder)
    return [*start.report.exact, *dict(start.report.adapted)]


def _finish(report: TrainReport, run: RunSpec) -> None:
    """Write what a run folder has when its training has ended."""
    write_metrics(report.metrics, report.folder, steps=report.steps, start=report.start)
    draw_curve(report.folder, title=run.name, metric=run.task.metrics[0])


def _finish_again(
    run: RunSpec, folder: Path, checkpoint: Checkpoint, *, end: str, notify: Callable[[str], None] | None
) -> TrainReport:
    """Return the report of a run that is at its end; if it was killed there, write what it has not written."""
    report = _report(folder, steps=checkpoint.steps, callbacks=checkpoint.callbacks)
    if not (has_metrics(folder) and (folder / CURVE_FILE).is_file()):
        _finish(report, run)
    if notify is not None:
        notify(f"{folder}: {end}")
    return report


def _advice_after_stop(folder: Path) -> str:
    if not has_checkpoint(folder):
        return f"{folder}: stopped before the first checkpoint, begin again with --resume."
    return f"{folder}: stopped after {read_checkpoint(folder).steps} steps, go on with --resume."


def _early_end(report: TrainReport, run: RunSpec) -> str:
    return (
        f"{report.folder}: ended after {report.steps} of {run.training.max_steps} steps, {run.task.metrics[0]} got no "
        f"better in {run.training.early_stopping} validations (training.early_stopping)"
    )


def _callbacks(
    run: RunSpec,
    folder: Path,
    progress: Callable[[Progress], None] | None,
    *,
    stop: StopBetweenSteps,
    table: CSVLogger,
    notify: Callable[[str], None] | None,
) -> list[L.Callback]:
    """Return the callbacks in the order in which they must be called."""
    recipe, metric = run.training, run.task.metrics[0]
    average = AverageWeights(decay=recipe.ema_decay) if recipe.ema_decay else None
    chooses = bool(run.data.validation) and recipe.keep == "best"
    keep = KeepWeights(folder, metric=metric if chooses else None, every=recipe.validate_every, average=average)
    callbacks: list[L.Callback] = [keep] if average is None else [average, keep]
    early = StopEarly(metric=metric, patience=recipe.early_stopping) if recipe.early_stopping else None
    callbacks += [] if early is None else [early]
    checkpoint = KeepCheckpoint(folder, every=recipe.validate_every, accumulate=recipe.accumulate, stop=stop)
    callbacks.append(checkpoint)
    if run.data.validation:
        callbacks.append(DrawCurve(folder, title=run.name, metric=metric, table=table))
    if progress is not None:
        callbacks.append(ReportProgress(progress, stop=stop))
    callbacks.append(stop)
    if run.init_from is not None and run.data.validation:
        counts = has_heads(read_load_report(folder)["reinitialised"], run)
        callbacks.append(
            ScoreStart(
                run,
                keep=keep if counts and chooses else None,
                early=early if counts else None,
                checkpoint=checkpoint,
                notify=notify,
            )
        )
    return callbacks


def training_precision(wanted: TrainingPrecision, device: str, *, model: ModelSpec) -> tuple[TrainingPrecision, str]:
    """Return the arithmetic and Lightning accelerator for `device`; what it cannot do is replaced, with a warning.

    CPUs compute in float32, where most networks are faster, but for bfloat16 on a CPU that has it and with a network
    that is faster in it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device]:
        raise UnknownNameError(f"the device {device!r} is not available here, give auto or cpu.")
    if device == "cuda":
        if wanted == "bf16-mixed" and not cuda_has_bfloat16():
            _log.warning("this GPU has no bfloat16, training in 16-mixed instead of %s", wanted)
            return "16-mixed", device
        return wanted, device
    if (
        device == "cpu"
        and wanted == "bf16-mixed"
        and prefers_bfloat16(model.builder, model.arch)
        and cpu_has_bfloat16()
    ):
        return wanted, device
    if wanted != "32-true":
        _log.warning("training on the %s in 32-true instead of %s", device, wanted)
    return "32-true", device


def _trained_on(run: RunSpec, here: str, resume: bool) -> str:
    """Return what a run is trained on: `here`, and before that what it says, if it goes on."""
    if not resume or run.trained_on is None:
        return here
    return run.trained_on if run.trained_on.endswith(here) else f"{run.trained_on}; then {here}"


def _device_name(accelerator: str) -> str:
    return torch.cuda.get_device_name() if accelerator == "cuda" else accelerator


def warn_of_waiting(workers: int, *, accelerator: str) -> None:
    """Log that a GPU waits for its patches; a CPU has nothing left to read them with meanwhile."""
    if accelerator != "cpu" and workers == 0:
        _log.warning(
            "the GPU waits while patches are read in its own process: training.workers=%d reads them ahead",
            min(8, usable_cores()),
        )


def _trainer(
    run: RunSpec,
    precision: TrainingPrecision,
    accelerator: str,
    *,
    fast_dev_run: int,
    callbacks: list[L.Callback],
    loggers: list[Any],
) -> L.Trainer:
    recipe = run.training
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        # Lightning's own requeueing under SLURM knows nothing of run folders.
        plugins=[LightningEnvironment(), WriteInPlace()],
        precision=precision,
        max_steps=recipe.max_steps,
        max_epochs=-1,
        val_check_interval=min(recipe.validate_every, recipe.max_steps) * recipe.accumulate,  # in batches
        accumulate_grad_batches=recipe.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.gradient_clip or None,
        log_every_n_steps=1 if recipe.max_steps < 50 else 10,
        fast_dev_run=fast_dev_run,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _fit(
    trainer: L.Trainer, module: SegmentationModule, run: RunSpec, *, checkpoint: Path | None, steps_done: int
) -> None:
    recipe = run.training
    on_gpu = isinstance(trainer.accelerator, CUDAAccelerator)
    loader = training_loader(run, skip=steps_done * recipe.accumulate, pin_memory=on_gpu)
    validation = validation_loader(run, pin_memory=on_gpu)
    try:
        with _quiet():
            trainer.fit(module, loader, validation, ckpt_path=checkpoint)
    except FloatingPointError as error:
        raise CheckFailedError(f"{error}: the training diverged, lower training.learning_rate.") from None
    except ZooError as error:
        # A loader's worker wraps an error in its traceback, which ends in the sentence.
        raise type(error)(error.args[0].splitlines()[-1].removeprefix(f"{_full_name(error)}: ")) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise LimitError(
            f"the {'device' if on_gpu else 'CPU'} has not enough memory for batches of {recipe.batch_size} patches of "
            f"{list(recipe.patch_size)} with {run.model.name}, lower training.batch_size or training.patch_size."
        ) from None
    except SystemExit:  # how Lightning ends after SIGINT and SIGTERM
        raise KeyboardInterrupt from None


def _full_name(error: ZooError) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _end_of(checkpoint: Checkpoint, run: RunSpec) -> str | None:
    """Return why a run is at its end and how it could go on, or None if it is not there."""
    steps, waited = checkpoint.steps, int(checkpoint.callbacks.get("StopEarly", {"waited": 0})["waited"])
    if steps >= run.training.max_steps:
        return f"has done its {steps} steps, give training.max_steps=N with a larger N to go on."
    if 0 < run.training.early_stopping <= waited:
        return (
            f"has ended early, after {waited} validations without a better score: give "
            "training.early_stopping=N with a larger N, or 0, to go on."
        )
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice (loggers, workers, GPUs that are not used) is for its own users, not for ours."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _loggers(folder: Path, *, steps_done: int) -> list[Any]:
    """Return the loggers of a run; the CSV log begins with the rows of the steps that are done."""
    table = CSVLogger(folder, name="", version=LOGS, prefix="", flush_logs_every_n_steps=10)
    rows = set_log_aside(folder, step=steps_done)
    with _quiet():
        for row in rows:
            values: dict[str, Any] = {name: value for name, value in row.items() if name != "step" and value}
            table.experiment.log_metrics(values, step=int(row["step"]))
        table.save()
    drop_old_logs(folder)
    return [table, TensorBoardLogger(folder, name="", version=LOGS, default_hp_metric=False)]
