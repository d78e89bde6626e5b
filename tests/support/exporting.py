"""A run of a network so small that every format is written in a second or two."""

from __future__ import annotations

from pathlib import Path

import torch

from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.storage import write_weights


def small_model(*, out_channels: int = 1) -> ModelSpec:
    """A U-Net of two levels, whose legal sizes are 2 + 2n, 2 + 2n, 4 + 2n."""
    arch = {"channels": [2, 4], "strides": [[2, 2, 2]]}
    return resolve_model("monai_unet", out_channels=out_channels, arch=arch)


def make_small_run(folder: Path, *, data: dict | None = None, task: TaskSpec | None = None) -> Path:
    """Write a run folder of that network with random weights."""
    task = task or get_task("mito")
    model = small_model(out_channels=len(task.channels))
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="small",
        model=model,
        task=task,
        data=DataSpec(**(data or {})),
        training=model.training,
        prediction=PredictionSpec(window=(4, 8, 8)),
    )
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json")))
    torch.manual_seed(0)
    write_weights(build(model, deep_supervision=False), folder / WEIGHTS_FILE)
    return folder


def task_of_activations(*kinds: str) -> TaskSpec:
    """Return a task with a channel of each of these activations."""
    targets = [
        {"kind": "class", "labels": [index]} if kind == "softmax" else {"kind": "foreground"}
        for index, kind in enumerate(kinds, start=1)
    ]
    channels = [
        {"name": f"c{index}", "activation": kind, "target": target, "losses": [{"kind": "mse"}]}
        for index, (kind, target) in enumerate(zip(kinds, targets, strict=True))
    ]
    return TaskSpec.model_validate({**get_task("mito").model_dump(mode="json"), "channels": channels})
