"""The rows of the list: what each kind of spec declares, in fields that `where` and `sort` know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar, get_type_hints

from connectomics_zoo.catalog import SpecKind


@dataclass(frozen=True)
class ModelRow:
    """One version of one model, as its spec declares it; the fields are what `where` and `sort` know."""

    name: Annotated[str, "name of the model"]
    version: Annotated[str, "version of its spec"]
    reference: Annotated[str, "what to write for it: the name, with catalogue or version where it needs them"]
    catalog: Annotated[str, "catalogue that it is in"]
    family: Annotated[str, "group of related models"]
    builder: Annotated[str, "builder that makes the network"]
    summary: Annotated[str, "what it is, in one sentence"]
    parameters: Annotated[int | None, "parameters in training, with the deep-supervision heads"]
    training_bytes: Annotated[int | None, "memory of a training step on a GPU with one patch of training_patch"]
    training_patch: Annotated[list[int] | None, "that patch in voxels, the next legal size from 128 on"]
    training_precision: Annotated[str | None, "arithmetic of the recipe, in which that is counted"]
    receptive_field: Annotated[list[int | None] | None, "voxels that an output depends on by convolutions; null: all"]
    parameters_inference: Annotated[int | None, "parameters without those heads"]
    gflops: Annotated[float | None, "10^9 operations of one forward pass, at flops_input"]
    flops_input: Annotated[list[int] | None, "input shape [B, C, Z, Y, X] that the operations are counted at"]
    scales: Annotated[int, "number of outputs in training"]
    deep_supervision: Annotated[bool, "whether there are several outputs"]
    axes: Annotated[str, "spatial axes: zyx or yx"]
    input_channels: Annotated[int, "channels of the input"]
    output_channels: Annotated[int, "channels of each output"]
    minimum: Annotated[list[int], "smallest legal size in voxels, per axis"]
    step: Annotated[list[int], "distance between legal sizes in voxels, per axis"]
    weights: Annotated[list[str], "tags of the trained weights"]
    tasks: Annotated[list[str], "tasks that these solve"]
    exports: Annotated[dict[str, str], "formats that zoo export has tried: for which sizes, or why not"]
    license: Annotated[str, "licence of the network's code"]
    path: Annotated[str, "file of the spec"]


@dataclass(frozen=True)
class TaskRow:
    """One task, as its spec declares it."""

    name: Annotated[str, "name of the task"]
    reference: Annotated[str, "what to write for it: the name, with the catalogue where it needs one"]
    catalog: Annotated[str, "catalogue that it is in"]
    summary: Annotated[str, "what it is, in one sentence"]
    channels: Annotated[list[str], "names of the output channels"]
    targets: Annotated[list[str], "what each channel's target is made of"]
    decoding: Annotated[str, "how predictions become labels"]
    metrics: Annotated[list[str], "what validation reports"]
    path: Annotated[str, "file of the spec"]


@dataclass(frozen=True)
class ExperimentRow:
    """One experiment, as its spec declares it."""

    name: Annotated[str, "name of the experiment"]
    reference: Annotated[str, "what to write for it: the name, with the catalogue where it needs one"]
    catalog: Annotated[str, "catalogue that it is in"]
    summary: Annotated[str, "what it is, in one sentence"]
    model: Annotated[str, "reference of the model"]
    task: Annotated[str, "name of the task"]
    path: Annotated[str, "file of the spec"]


@dataclass(frozen=True)
class WeightsRow:
    """Trained weights that are declared, as their entry and their file say."""

    name: Annotated[str, "what to write for them: model.tag"]
    reference: Annotated[str, "the same, with the catalogue where it needs one"]
    catalog: Annotated[str, "catalogue that they are in"]
    model: Annotated[str, "name of the model"]
    task: Annotated[str, "task that they solve"]
    finds: Annotated[str, "what they find: the summary of the task"]
    voxel_size_nm: Annotated[list[float] | None, "edges of a network voxel (z, y, x) in nm"]
    scores: Annotated[dict[str, float], "scores on the validation data"]
    dataset: Annotated[str, "what they were trained on"]
    split: Annotated[str | None, "which part was trained on, and which was scored on"]
    license: Annotated[str, "licence of the weights"]
    path: Annotated[str, "file of the model's spec"]


@dataclass(frozen=True)
class CatalogRow:
    """A catalogue, as its files say without running any of its code."""

    name: Annotated[str, "name of the catalogue"]
    reference: Annotated[str, "what to write before the colon of catalog:name"]
    catalog: Annotated[str, "the same"]
    owner: Annotated[str, "the installed package with its version, or the folder in ZOO_PATH"]
    models: Annotated[int, "how many models it has"]
    tasks: Annotated[int, "how many tasks"]
    experiments: Annotated[int, "how many experiments"]
    builders: Annotated[list[str], "names of its builders"]
    problems: Annotated[list[str], "what is wrong with it, one sentence each"]
    path: Annotated[str, "its folder"]


AnyRow = ModelRow | TaskRow | ExperimentRow | WeightsRow | CatalogRow
Row = TypeVar("Row", ModelRow, TaskRow, ExperimentRow, WeightsRow, CatalogRow)

ListKind = SpecKind | Literal["weights", "catalog"]
"""What can be listed."""


def _descriptions(row: type) -> dict[str, str]:
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(row, include_extras=True).items()}


FIELDS: dict[ListKind, dict[str, str]] = {
    "model": _descriptions(ModelRow),
    "task": _descriptions(TaskRow),
    "experiment": _descriptions(ExperimentRow),
    "weights": _descriptions(WeightsRow),
    "catalog": _descriptions(CatalogRow),
}
"""The fields of the rows of each kind, and what they mean."""
