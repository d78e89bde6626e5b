"""`fit`: which patch and batch fit into a memory; and what cannot fit is refused before it is begun."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from connectomics_zoo.errors import InputSizeError, LimitError, SpecError
from connectomics_zoo.fit.cost import cost_of
from connectomics_zoo.fit.memory import StepBytes, Where, prediction_bytes, training_bytes
from connectomics_zoo.fit.search import largest_size
from connectomics_zoo.network.build import with_counts
from connectomics_zoo.network.hardware import cpu_has_bfloat16
from connectomics_zoo.schema.builder import kept_on_cpu, prefers_bfloat16
from connectomics_zoo.schema.experiment import REQUIRED, ExperimentSpec, RunSpec
from connectomics_zoo.schema.model import Expectation, ModelSpec
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress, silent
from connectomics_zoo.schema.report import Report, Table
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.training import TrainingPrecision
from connectomics_zoo.specs.costs import MARGIN, Cost
from connectomics_zoo.specs.lookup import every_model, get_task, resolve_any
from connectomics_zoo.specs.overrides import override_model
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.volumes.memory import available_bytes

Use = Literal["train", "predict"]

MOST_BATCH = 64
"""The largest batch that is tried."""

OBVIOUS = 60_000
"""Bytes a voxel of a batch that no network of the zoo takes: what fits by it is not counted."""


@dataclass(frozen=True)
class Fit(Report):
    """What fits of one model, and what it takes."""

    model: str
    """Its reference."""
    parameters: int
    """Parameters, in training with the heads of deep supervision."""
    patch: tuple[int, ...] | None
    """The largest legal patch or window in network voxels (z, y, x); None where not even the smallest one fits."""
    batch: int
    """The largest batch of it, or the one that was asked for."""
    memory: StepBytes
    """What a step of these takes; of the smallest patch where none fits."""
    precision: TrainingPrecision
    """Arithmetic that it is counted for."""
    checkpointing: bool | None
    """Whether the network recomputes its blocks in the backward pass; None where it cannot."""


@dataclass(frozen=True)
class FitReport(Report):
    """What fits of each model."""

    use: Use
    """Training or prediction."""
    device: Where
    """On what."""
    memory_bytes: int
    """The memory that there is."""
    fits: list[Fit]
    """One for each model."""

    def table(self) -> Table:
        """Return a row for each model."""
        return Table(
            ("model", "parameters", "patch", "batch", "GB", "precision"),
            [
                (
                    item.model,
                    f"{item.parameters:,}",
                    "none" if item.patch is None else " × ".join(map(str, item.patch)),
                    "-" if item.patch is None else str(item.batch),
                    f"{item.memory.total / 1e9:.1f}",
                    item.precision,
                )
                for item in self.fits
            ],
        )


@dataclass(frozen=True)
class _Subject:
    """A model that is asked about."""

    label: str
    spec: ModelSpec
    task: TaskSpec | None


@dataclass(frozen=True)
class _Question:
    """What is asked about every model; see `fit`."""

    use: Use
    device: Where
    limit: float
    anisotropy: float
    patch: tuple[int, ...] | None
    batch: int | None
    precision: TrainingPrecision | None

    def answer(self, subject: _Subject) -> Fit:
        """Count steps of the model until the largest one that fits is found."""
        spec = subject.spec
        rule, precision = spec.input.size, self.precision or usual_precision(spec, self.device)

        def step(size: tuple[int, ...], batch: int) -> StepBytes:
            if self.use == "predict":
                return prediction_bytes(spec, size, batch=batch, precision=precision, where=self.device)
            return training_bytes(spec, size, batch=batch, precision=precision, where=self.device, task=subject.task)

        batch = self.batch or 1
        if self.patch is None:
            patch = largest_size(
                rule, anisotropy=self.anisotropy, needs=lambda size: step(size, batch).total, limit=self.limit
            )
        else:
            patch = _legal(spec, self.patch)
        memory = step(patch or rule.minimum, batch)
        if patch is not None and self.patch is not None and memory.total > self.limit:
            patch = None
        if patch is not None and self.batch is None:
            a_patch = max(1, memory.kept + memory.working)
            batch = min(MOST_BATCH, 1 + int((self.limit - memory.total) / a_patch))
            memory = memory if batch == 1 else step(patch, batch)
        return Fit(
            model=subject.label,
            parameters=cast("Expectation", with_counts(spec).expect).parameters.training,
            patch=patch,
            batch=batch,
            memory=memory,
            precision=precision,
            checkpointing=has_checkpointing(spec),
        )


def fit(
    refs: str | Path | Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    memory_bytes: int | None = None,
    device: Where | None = None,
    use: Use = "train",
    anisotropy: float = 1.0,
    patch: tuple[int, ...] | None = None,
    batch: int | None = None,
    precision: TrainingPrecision | None = None,
    checkpointing: bool | None = None,
    task: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport:
    """Return the largest legal patch and batch of each model that a memory holds.

    Nothing is allocated: what tensors would take is counted, so that no GPU is needed, and what does not fit is never
    tried. `MARGIN` of the memory is left free.

    Args:
        refs: models, experiments, runs or weights; all models of the catalogues without any.
        overrides: nested fields of the models to change, as for `zoo show`.
        memory_bytes: what there is; by default what is free on the device.
        device: `cuda` or `cpu`; by default `cuda` where the memory is given, or where there is one.
        use: to train with AdamW, or to predict.
        anisotropy: how many times as thick a section is as a pixel is wide; the patch is so much shorter along z.
        patch: count for this patch instead of the largest one, in network voxels.
        batch: patches of a batch; by default the most that fit beside each other of the largest patch.
        precision: arithmetic, as `training.precision`; by default the recipe's, on a CPU what it is trained in there.
        checkpointing: with or without it, where a network has it; by default as its spec says.
        task: gives channels and loss; by default those of the experiment or run, of a model its own channels.
        progress: is told how many models are done.

    Raises:
        ZooError: a reference, an override, or a number is not possible.
    """
    if memory_bytes is not None and memory_bytes < 1:
        raise SpecError(f"a memory of {memory_bytes} bytes holds nothing, give more than 0.")
    if not anisotropy > 0:
        raise SpecError(
            f"an anisotropy of {anisotropy:g} is not possible, give more than 0, such as 6 for 48 x 8 x 8 nm."
        )
    if batch is not None and batch < 1:
        raise SpecError(f"a batch of {batch} is not possible, give 1 or more.")
    on: Where = device or ("cuda" if memory_bytes is not None or torch.cuda.is_available() else "cpu")
    memory = free_bytes(on) if memory_bytes is None else memory_bytes
    if memory is None:
        raise SpecError(f"how much memory is free on the {on} is not known here, give it: --memory 24GB.")
    question = _Question(use, on, memory / (1 + MARGIN), anisotropy, patch, batch, precision)
    names = [str(refs)] if isinstance(refs, str | Path) else [str(ref) for ref in refs] or sorted(every_model())
    progress = progress or notebook_bar("fit") or silent
    found = []
    for index, name in enumerate(names):
        progress(Progress(index, len(names), unit="models", label=name))
        found.append(question.answer(_subject(name, overrides or {}, task=task, checkpointing=checkpointing)))
    progress(Progress(len(names), len(names), unit="models"))
    return FitReport(use=use, device=on, memory_bytes=memory, fits=found)


def _subject(ref: str, overrides: Mapping[str, Any], *, task: str | None, checkpointing: bool | None) -> _Subject:
    """Return the model that a reference means, with the channels of its task and the overrides."""
    found = resolve_any(ref)
    solved: TaskSpec | None = None if task is None else get_task(task)
    if isinstance(found.spec, TaskSpec):
        raise SpecError(f"{ref} is a task, give a model, with --task {ref}.")
    if isinstance(found.spec, ExperimentSpec):
        solved = solved or (None if found.spec.task == REQUIRED else get_task(found.spec.task))
        spec = resolve_model(found.spec.model, arch=found.spec.arch)
    else:
        spec = found.model
        if found.run is not None:
            solved = solved or found.run.task
        elif found.reference.tag is not None and solved is None:
            solved = get_task(spec.weights[found.reference.tag].task)
    spec = override_model(spec, overrides) if overrides else spec
    if solved is not None:
        spec = resolve_model(spec, out_channels=len(solved.channels))
    if checkpointing is not None:
        if has_checkpointing(spec) is None:
            raise SpecError(f"{spec.name} has no checkpointing to switch, leave --checkpointing out.")
        spec = resolve_model(spec, arch={"checkpointing": checkpointing})
    return _Subject(ref, spec, solved)


def _legal(spec: ModelSpec, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return the patch (z, y, x), one number being meant for every axis.

    Raises:
        InputSizeError: it is not legal.
    """
    rank = len(spec.input.axes)
    whole = patch * rank if len(patch) == 1 else patch
    if not spec.input.size.allows(whole):
        legal = spec.input.size.round_up(whole) if len(whole) == rank else spec.input.size.minimum
        raise InputSizeError(
            f"{spec.name} does not accept the patch {list(whole)}, legal are {spec.input.size.describe()} voxels along "
            f"{', '.join(spec.input.axes)}: give {','.join(map(str, legal))}."
        )
    return whole


def has_checkpointing(spec: ModelSpec) -> bool | None:
    """Return whether the network recomputes its blocks in the backward pass, None where it has no such switch."""
    value = spec.arch.model_dump().get("checkpointing")
    return value if isinstance(value, bool) else None


def usual_precision(spec: ModelSpec, device: Where) -> TrainingPrecision:
    """Return the arithmetic in which `zoo train` trains the network there by its recipe."""
    wanted = spec.training.precision
    if device == "cuda":
        return wanted
    low = wanted == "bf16-mixed" and prefers_bfloat16(spec.builder, spec.arch) and cpu_has_bfloat16()
    return "bf16-mixed" if low else "32-true"


def free_bytes(device: Where) -> int | None:
    """Return the memory that is free on this machine's GPU or CPU, None where nobody says."""
    if device == "cpu":
        return available_bytes()
    if not torch.cuda.is_available():
        return None
    # What an earlier network of this process has left in torch's cache is there for the next one.
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def measure_cost(spec: ModelSpec) -> Cost:
    """Return what a model costs in memory with its own channels, and how far it sees; takes seconds on the CPU."""
    return cost_of(spec)


def refuse_what_cannot_fit(
    run: RunSpec, *, device: str, precision: TrainingPrecision, frozen: Collection[str] = (), free: int | None = None
) -> None:
    """Refuse a training whose step takes more memory than is free, before it is begun.

    Nothing that fits is refused: what is counted is `MARGIN` too much at most. What obviously fits is not counted.

    Args:
        run: the complete run.
        device: Lightning's accelerator; memory of others than `cuda` and `cpu` is not known.
        precision: the arithmetic that is trained in.
        frozen: names of the parameters that are not trained.
        free: bytes; by default what is free there now.

    Raises:
        LimitError: it cannot fit.
    """
    if device not in ("cuda", "cpu"):
        return
    on: Where = "cuda" if device == "cuda" else "cpu"
    free = free_bytes(on) if free is None else free
    spec, recipe = run.model, run.training
    voxels = recipe.batch_size * math.prod(recipe.patch_size)
    weights = 20 * spec.expect.parameters.training if spec.expect is not None else math.inf
    if free is None or weights + OBVIOUS * voxels < free:
        return

    def step(batch: int, model: ModelSpec = spec) -> int:
        return training_bytes(
            model,
            recipe.patch_size,
            batch=batch,
            precision=precision,
            where=on,
            task=run.task,
            average=recipe.ema_decay > 0,
            frozen=frozen,
        ).total

    needed = step(recipe.batch_size)
    if needed * (1 - MARGIN) <= free:
        return
    ways = ["give a smaller training.patch_size"]
    if recipe.batch_size > 1:
        ways.insert(0, "lower training.batch_size (training.accumulate keeps its effect)")
    is_plain = on == "cuda" or kept_on_cpu(spec.builder, spec.arch) is None
    if is_plain and has_checkpointing(spec) is False:
        ways.insert(0, "say arch.checkpointing=true")
    advice = ", or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]
    raise LimitError(
        f"a step of {spec.name} on batches of {recipe.batch_size} patches of {list(recipe.patch_size)} takes about "
        f"{needed / 1e9:.1f} GB and the {'GPU' if on == 'cuda' else 'CPU'} has {free / 1e9:.1f} GB free: {advice} "
        f"(zoo fit {spec.name} says what fits)."
    )
