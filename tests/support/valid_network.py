"""A tiny network whose convolutions have valid padding, and runs and requests with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.network.seeding import seed_parameters
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.storage import write_weights

ARCH: dict[str, Any] = {
    "channels": [2, 3],
    "up_channels": [3],
    "strides": [[1, 2, 2]],
    "upsampling": "nearest_conv",
    "kernel_sizes": [[[1, 3, 3]], [[3, 3, 3]]],
    "up_kernel_sizes": [[[3, 3, 3]]],
    "head_kernel_sizes": [],
}
"""Of an input of (5, 10, 10) voxels, or by (1, 2, 2) more, it gives 2 * (2, 4, 4) voxels less."""

CONTEXT = (2, 4, 4)


def valid_spec(**changes: Any) -> Any:
    """Return the complete spec of the tiny network, for one output channel."""
    return resolve_model("cellmap-fly", out_channels=1, arch={**ARCH, **changes})


def make_valid_run(folder: Path, *, window=(8, 16, 16), overlap=0.5, spec=None, **data: Any) -> Path:
    """Write a run folder with the tiny network and random weights."""
    model = valid_spec() if spec is None else spec
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="valid",
        model=model,
        task=get_task("mito"),
        data=DataSpec(**data),
        training=model.training,
        prediction=PredictionSpec(window=window, overlap=overlap),
    )
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json")))
    write_weights(valid_network(model), folder / WEIGHTS_FILE)
    return folder


def valid_network(model: Any) -> nn.Module:
    """Return the network of `model` with weights whose logits are not all alike."""
    network = build(model, deep_supervision=True)
    seed_parameters(network)
    return network


def cropped(values: Tensor, context=CONTEXT) -> Tensor:
    """Return the middle of values (…, Z, Y, X)."""
    return values[(..., *(slice(more, -more or None) for more in context))]
