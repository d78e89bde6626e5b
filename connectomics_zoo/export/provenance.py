"""What an exported network says of itself: which it is, whose weights it has, for what, and how it was checked."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import torch

from connectomics_zoo.export.check import TOLERANCE
from connectomics_zoo.export.exported import Activation, Exported
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.weights.pretrained import Pretrained


def provenance(exported: Exported) -> dict[str, str]:
    """Return texts by name, in the order in which they are read; what is not known is left out."""
    return dict(_lines(exported))


def _lines(exported: Exported) -> Iterator[tuple[str, str]]:
    spec = exported.spec
    yield "model", spec.reference
    yield "summary", spec.summary
    yield "code_license", f"{spec.source.license} ({spec.source.code})"
    yield "paper", f"{spec.source.paper} ({spec.source.url})"
    if exported.trained is None:
        yield "weights", "none: initial values, not trained"
    else:
        yield from _of_weights(exported.trained)
    if exported.run is not None:
        yield from _of_run(exported.run)
    yield "input", _input(spec, exported.sizes, exported.any_batch)
    if exported.task is not None:
        yield "task", exported.task.name
        yield "channels", _channels(exported.task)
    yield "output", _output(spec, exported.activation)
    yield "tolerance", f"{TOLERANCE:g} of the largest absolute value that torch computes, in float32"
    yield "made_by", f"connectomics-zoo {importlib.metadata.version('connectomics-zoo')}, torch {torch.__version__}"


def _of_weights(trained: Pretrained) -> Iterator[tuple[str, str]]:
    # The path of a folder here means nothing elsewhere, and may say more than its owner wants.
    is_folder = trained.beside is not None and "://" not in trained.name
    yield "weights", Path(trained.name).resolve().name if is_folder else trained.name
    yield "weights_sha256", trained.sha256()
    if trained.entry is not None:
        yield "weights_license", trained.entry.license
        yield "weights_attribution", trained.entry.dataset


def _of_run(run: RunSpec) -> Iterator[tuple[str, str]]:
    data = run.data
    if data.license is not None:
        yield "data_license", data.license
    if data.attribution is not None:
        yield "data_attribution", data.attribution
    if data.network_voxel_nm is not None:
        yield "voxel_size_nm", ", ".join(f"{edge:g}" for edge in data.network_voxel_nm)
    # Norms take their statistics over the input, so that another size gives other values.
    yield "window", f"{', '.join(map(str, run.window))} voxels, the size that it predicts at"
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


def _output(spec: ModelSpec, activation: Activation) -> str:
    what = "logits" if activation == "none" else "values of the task's channels, activated"
    if spec.input.context is None:
        return f"{what}, as large as the input"
    margins = ", ".join(map(str, spec.input.context))
    return f"{what}, {margins} voxels smaller on each side along {', '.join(spec.input.axes)}"


def _channels(task: TaskSpec) -> str:
    return ", ".join(f"{channel.name} ({channel.activation})" for channel in task.channels)
