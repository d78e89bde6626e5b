"""Small volumes and the smallest MedNeXt, which the tests of training share."""

from __future__ import annotations

import h5py
import numpy as np

from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.specs.resolve import resolve_model

TINY = {"base_channels": 2, "block_counts": [1] * 9}


def write_volume(path, *, shape=(20, 40, 40), seed=0, **attributes):
    """A float-free volume whose bright blobs are the labels."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[:, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = 1
    image = (60 + 120 * label + random.integers(0, 40, shape)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["raw"], file["mito"] = image, label
        for name, value in attributes.items():
            file[name] = value
    return path


def request(path, **training):
    """Overrides that make a run of `mednext-S` on the volume at `path`."""
    pair = {"image": f"{path}:raw", "label": f"{path}:mito"}
    recipe = {"patch_size": [16, 32, 32], "batch_size": 1, "max_steps": 4, "validate_every": 2, "augmentation": "flips"}
    return {
        "task": "mito",
        "arch": dict(TINY),
        "data": {
            "train": [{**pair, "region": {"z": [0, 16]}}],
            "validation": [{**pair, "region": {"z": [16, 20]}}],
        },
        "training": {**recipe, **training},
    }


def make_run(data, *, task="mito", model="mednext-S", **training):
    """A complete run without looking at any file."""
    task = get_task(task)
    recipe = {"patch_size": [16, 32, 32], "batch_size": 1, "max_steps": 4, "augmentation": "none"}
    return RunSpec(
        schema_version=1,
        kind="run",
        name="tiny",
        model=resolve_model(model, out_channels=len(task.channels), arch=TINY if model.startswith("mednext") else None),
        task=task,
        data=DataSpec.model_validate(data),
        training=TrainingSpec.model_validate(merge(recipe, training)),
        prediction=PredictionSpec(),
    )
