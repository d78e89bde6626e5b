"""The score of trained weights on their validation data, as training measures it."""

from __future__ import annotations

from pathlib import Path

import torch

from connectomics_zoo.network.acceleration import prepare_inference
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.train.data import validation_loader
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import Patch
from connectomics_zoo.weights.load import load


def validation_voxel_scores(folder: Path, run: RunSpec) -> dict[str, float]:
    """Return the task's metrics, each as `val/<name>`, as the validation in training measures them, in float32.

    Args:
        folder: a folder with the weights and their spec.
        run: that spec, with the places of the data.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = prepare_inference(load(folder, device=device), device=device)
    recipe = run.training.model_copy(update={"workers": 0, "freeze": "none"})
    run = run.model_copy(update={"training": recipe})
    module = SegmentationModule(run, network)
    loader = validation_loader(run)
    assert loader is not None
    with torch.inference_mode():
        for number, batch in enumerate(loader):
            module.validation_step(Patch(*(part.to(device) for part in batch)), number)
    return {f"val/{name}": score for name, score in module.scores().items()}
