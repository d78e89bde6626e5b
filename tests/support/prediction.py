"""Runs, volumes and predictions that tests of `zoo predict` share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.predict import slide as sliding
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.volumes import create_volume, open_volume
from connectomics_zoo.weights.storage import write_weights

SMALL = {"CHUNK_EDGE": 16, "SHARD_EDGES": (16, 32, 32), "BLOCK_WINDOWS": 27}
"""What `predict.plan` has instead, to make eight blocks of 24 x 64 x 64 voxels."""


def make_run(
    folder: Path,
    *,
    task: TaskSpec | None = None,
    in_channels: int = 1,
    arch: dict | None = None,
    window=(16, 32, 32),
    data: dict | None = None,
) -> Path:
    """Write a run folder with a tiny MedNeXt of random weights, which normalises per window."""
    task = task or get_task("mito")
    model = resolve_model(
        "mednext-S",
        in_channels=in_channels,
        out_channels=len(task.channels),
        arch={"base_channels": 2, "block_counts": [1] * 9, **(arch or {})},
    )
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="tiny",
        model=model,
        task=task,
        data=DataSpec(**(data or {})),
        training=model.training,
        prediction=PredictionSpec(window=window),
    )
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json")))
    torch.manual_seed(0)
    network = build(model, deep_supervision=True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("out_0"):
                parameter.mul_(5)  # logits that are not all near 0
    write_weights(network, folder / WEIGHTS_FILE)
    return folder


def write(path: Path, array: np.ndarray, *, voxel_size_nm=None) -> Path:
    channels = array.shape[0] if array.ndim == 4 else None
    with create_volume(
        path, shape=array.shape[-3:], dtype=array.dtype, channels=channels, voxel_size_nm=voxel_size_nm
    ) as volume:
        volume.write(volume.whole, array)
    return path


def grey(shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def read(path):
    with open_volume(path) as volume:
        return volume.read(volume.whole)


class StopError(Exception):
    """What stops a prediction."""


def stop_batches(monkeypatch, windows, error=StopError):
    """Stop in the batch of that number."""
    predict_batch, left = sliding._predict_batch, [windows]

    def count(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            raise error()
        return predict_batch(*args, **options)

    monkeypatch.setattr(sliding, "_predict_batch", count)
