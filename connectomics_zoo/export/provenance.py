"""What an exported network says of itself: which it is, whose weights it has, for what, and how it was checked."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

import torch

from connectomics_zoo.export.check import TOLERANCE
from connectomics_zoo.export.exported import Activation
from connectomics_zoo.export.source import Source
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.weights.pretrained import Pretrained


def provenance(source: Source, *, sizes: SizeRule, any_batch: bool, activation: Activation) -> dict[str, str]:
    """Return texts by name, in the order in which they are read; what is not known is left out."""
    return dict(_lines(source, sizes, any_batch, activation))


def _lines(source: Source, sizes: SizeRule, any_batch: bool, activation: Activation) -> Iterator[tuple[str, str]]:
    spec = source.spec
    yield "model", spec.reference
    yield "summary", spec.summary
    yield "code_license", f"{spec.source.license} ({spec.source.code})"
    yield "paper", f"{spec.source.paper} ({spec.source.url})"
    if source.trained is None:
        yield "weights", "none: initial values, not trained"
    else:
        yield from _of_weights(source.trained)
    if source.run is not None:
        yield from _of_data(source.run.data)
    yield "input", _input(spec, sizes, any_batch)
    if source.task is not None:
        yield "task", source.task.name
        yield "channels", _channels(source.task)
    yield "output", "logits" if activation == "none" else "values of the task's channels, activated"
    yield "tolerance", f"{TOLERANCE:g} of the largest absolute value that torch computes, in float32"
    yield "made_by", f"connectomics-zoo {importlib.metadata.version('connectomics-zoo')}, torch {torch.__version__}"


def _of_weights(trained: Pretrained) -> Iterator[tuple[str, str]]:
    # The path of a folder here means nothing elsewhere, and may say more than its owner wants.
    yield (
        "weights",
        trained.path.parent.name if trained.beside is not None and "://" not in trained.name else trained.name,
    )
    yield "weights_sha256", trained.sha256()
    if trained.entry is not None:
        yield "weights_license", trained.entry.license
        yield "weights_attribution", trained.entry.dataset


def _of_data(data: DataSpec) -> Iterator[tuple[str, str]]:
    if data.license is not None:
        yield "data_license", data.license
    if data.attribution is not None:
        yield "data_attribution", data.attribution
    if data.network_voxel_nm is not None:
        yield "voxel_size_nm", ", ".join(f"{edge:g}" for edge in data.network_voxel_nm)
    low_high = data.intensity_range
    yield (
        "intensity",
        "grey values divided by the largest of their integer type, so that they lie in 0 to 1"
        if low_high is None
        else f"(grey value - {low_high[0]:g}) / {low_high[1] - low_high[0]:g}, clipped to 0 to 1",
    )


def _input(spec: ModelSpec, sizes: SizeRule, any_batch: bool) -> str:
    axes = ", ".join(spec.input.axes.upper())
    return (
        f"float32 ({'B' if any_batch else '1'}, {spec.input.channels}, {axes}) of {sizes.describe()} voxels along "
        f"{', '.join(spec.input.axes)}, n = 0, 1, 2, …"
    )


def _channels(task: TaskSpec) -> str:
    return ", ".join(f"{channel.name} ({channel.activation})" for channel in task.channels)
