"""Parts of specs in a line of words, as `zoo show` has them in several places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.training import TrainingSpec


def recipe(training: TrainingSpec) -> str:
    """What matters most of a recipe."""
    patch = " × ".join(map(str, training.patch_size))
    return (
        f"{training.max_steps:,} steps, batch size {training.batch_size}, patches of {patch}, {training.optimizer} "
        f"with learning rate {training.learning_rate:g} ({training.schedule}), {training.precision}, augmentation "
        f"{training.augmentation.described}, seed {training.seed}"
    )


def decoding(task: TaskSpec) -> str:
    """The method and its settings."""
    values = task.decode.settings()
    steps = [f"{name} {value}" for name, value in values.items()]
    return f"{task.decode.method} ({', '.join(steps)})" if steps else task.decode.method


def first_weights(spec: ExperimentSpec | RunSpec) -> dict[str, str]:
    """With which weights training starts; nothing where it starts from none."""
    return {} if spec.init_from is None else {"starts from": spec.init_from}


def network_voxels(run: RunSpec) -> dict[str, str]:
    """How large the voxels are that a network sees; nothing where that is not known."""
    if run.data.network_voxel_nm is None:
        return {}
    text = f"{' × '.join(f'{edge:g}' for edge in run.data.network_voxel_nm)} nm (z, y, x)"
    if max(run.data.downsample) > 1:
        text += f", each the mean of {' × '.join(map(str, run.data.downsample))} of the volume's"
    return {"network voxels": text}


def listed(values: Mapping[str, Any]) -> str:
    """Names and values, behind each other."""
    return ", ".join(f"{key} {value}" for key, value in values.items())
