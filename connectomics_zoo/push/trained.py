"""Reads a run folder that is to be given away, refuses what must not be, and writes its portable files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save
from torch import Tensor

from connectomics_zoo.errors import CheckFailedError, SpecError, WeightsError
from connectomics_zoo.push.portable import portable_run, portable_tuned
from connectomics_zoo.runs.folder import METRICS_FILE, TUNED_FILE, WEIGHTS_FILE, get_run, run_text, write_run
from connectomics_zoo.runs.metrics import read_metrics, write_metrics
from connectomics_zoo.runs.tuned import read_tuned, write_tuned
from connectomics_zoo.schema.base import Name, Sentence
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.storage import read_weights


@dataclass(frozen=True)
class PushRequest:
    """What is to be given away, and what its owner says about it."""

    run: Path
    """The run's folder."""
    name: str | None = None
    """Tag of the weights in a spec; by default the run's name, or that of its task if the run has the model's."""
    half: bool = False
    """Store the weights in float16."""
    license: str | None = None
    """Licence of the weights; by default that of the data."""
    attribution: str | None = None
    """Whom to credit; by default whom the data's spec credits."""


@dataclass(frozen=True)
class Trained:
    """A run that may be given away."""

    folder: Path
    """Its folder."""
    run: RunSpec
    """Its spec as it was trained, with the places of this machine."""
    public: RunSpec
    """Its spec without them, with the licence and the attribution that its data had not, and the tuned decoding where
    its task makes objects."""
    tag: str
    """Tag of its weights in a spec."""
    half: bool
    """Whether they are stored in float16."""
    license: str
    """Licence of its weights."""
    metrics: dict[str, float]
    """Its scores, such as `val/dice`."""
    steps: int
    """Optimiser steps that were done."""
    kept_step: int
    """The step whose weights these are."""
    tuned: TunedDecoding | None = None
    """How its predictions are decoded best, with the places of this machine; None where it was not tuned."""
    public_tuned: TunedDecoding | None = None
    """The same without them."""


def read_trained(request: PushRequest) -> Trained:
    """Return what is given away, read and checked, but for `require_verified`.

    Raises:
        UnknownNameError: it is no run folder.
        WeightsError: the training has not ended.
        SpecError: the licence is not known, a name or sentence is not legal, or the settings that tuning found are
            not for this task.
    """
    run = get_run(request.run)
    licence = run.data.license if request.license is None else request.license.strip()
    if licence is None:
        raise SpecError(
            f"{request.run}: the licence of the data is not stated (data.license), and weights without one can be used "
            "by nobody: say it with --license, such as --license CC-BY-4.0."
        )
    licence = _legal(licence, Sentence, what="the licence", example="its identifier, such as CC-BY-4.0")
    usual = run.name if run.name != run.model.name else run.task.name
    tag = _legal(request.name or usual, Name, what="the tag", example="letters, digits, - and _")
    data = run.data.model_copy(
        update={
            "license": run.data.license or licence,
            "attribution": _legal(request.attribution, Sentence, what="the attribution", example="a sentence")
            if request.attribution is not None
            else run.data.attribution,
        }
    )
    metrics, steps, kept = read_metrics(request.run)
    if not all(math.isfinite(value) for value in metrics.values()):
        raise CheckFailedError(
            f"{request.run}: a score in {METRICS_FILE} is not finite, the training has diverged: train it again."
        )
    tuned = _read_tuned(request.run, run.task)
    task = run.task
    if tuned is not None and task.decode.is_instances:
        task = task.model_copy(update={"decode": tuned.decode})
    return Trained(
        folder=request.run,
        run=run,
        public=portable_run(run.model_copy(update={"data": data, "task": task})),
        tag=tag,
        half=request.half,
        license=licence,
        metrics=metrics,
        steps=steps,
        kept_step=kept,
        tuned=tuned,
        public_tuned=None if tuned is None else portable_tuned(tuned),
    )


def _legal(value: str, kind: Any, *, what: str, example: str) -> str:
    try:
        legal: str = TypeAdapter(kind).validate_python(value)
    except ValidationError:
        raise SpecError(f"{what} {value!r} is not legal in a spec, write {example}.") from None
    return legal


def _read_tuned(folder: Path, task: TaskSpec) -> TunedDecoding | None:
    """Return what tuning found for a run, None where it was not tuned."""
    path = folder / TUNED_FILE
    tuned = read_tuned(folder)
    if tuned is None:
        return None
    if not tuned.decode.is_instances:
        raise SpecError(
            f"{path}: decodes by {tuned.decode.method}, which makes no objects: tune again with zoo decode --tune, or "
            "take the file away."
        )
    validate(TaskSpec, {**task.model_dump(), "decode": tuned.decode.model_dump()}, source=f"{path}, for {task.name}")
    return tuned


def require_verified(folder: Path) -> None:
    """Refuse a run whose spec or weights are not what is declared.

    Raises:
        CheckFailedError: it does not pass `zoo verify FOLDER --level weights`.
    """
    (model,) = verify([f"{folder}/"], level="weights").models
    if not model.passed:
        first = "; ".join(check.describe() for check in model.failures[:3])
        more = len(model.failures) - 3
        raise CheckFailedError(
            f"{folder}: does not pass zoo verify --level weights and was not given away: {first}"
            + (f"; and {more} more" if more > 0 else "")
            + "."
        )


def write_trained(trained: Trained, folder: Path) -> None:
    """Write spec, weights, scores and tuned settings into `folder`, which is a run folder then.

    They name no place of this machine. The same run gives the same bytes.

    Raises:
        WeightsError: a weight is not finite, or too large for float16.
    """
    write_run(trained.public, folder)
    metadata = {"format": "pt", "spec": run_text(trained.public)}
    (folder / WEIGHTS_FILE).write_bytes(_with_metadata(save(_stored(trained)), metadata))
    write_metrics({**trained.metrics, "step": trained.kept_step}, folder, steps=trained.steps)
    if trained.public_tuned is not None:
        write_tuned(trained.public_tuned, folder)


def _stored(trained: Trained) -> dict[str, Tensor]:
    """Return the weights as they are stored."""
    path = trained.folder / WEIGHTS_FILE
    tensors = read_weights(path)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: {key} holds values that are not finite, the training has diverged.")
        if trained.half:
            tensors[key] = tensor.to(torch.float16)
            if not tensors[key].isfinite().all():
                raise WeightsError(f"{path}: {key} holds values too large for float16, leave out --half.")
    return tensors


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with `metadata`, whose order is given: safetensors itself would choose it by chance."""
    size = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(content[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
