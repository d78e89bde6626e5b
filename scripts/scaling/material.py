"""The run, volumes and predictions that the sections work on, all of them made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build
from connectomics_zoo.phantom.run import make_phantom
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.experiment import DataSpec, PredictionSpec, RunSpec
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.volumes import Box, StoredPrediction, create_volume, open_volume
from connectomics_zoo.weights.storage import write_weights
from scaling.small import OVERLAP, WINDOW

EDGE = 96
"""Edge of the volume that others are multiples of, in voxels."""

MULTIPLES = {1: (1, 1, 1), 8: (2, 2, 2), 64: (4, 4, 4)}
"""How often it lies along each axis, by how often its size the volume is."""

VOXEL_SIZE_NM = (8.0, 8.0, 8.0)


@dataclass(frozen=True)
class Material:
    """A folder with a run, and with volumes and predictions of several sizes."""

    folder: Path

    @property
    def run(self) -> Path:
        """A network of a few thousand weights, untrained."""
        return self.folder / "run"

    def image(self, multiple: int) -> Path:
        """Return an image that has `multiple` times the voxels of the smallest."""
        return self.folder / f"image-{multiple}.zarr"

    def prediction(self, multiple: int) -> Path:
        """Return a prediction of mitochondria of that size."""
        return self.folder / f"prediction-{multiple}.zarr"

    def predict(self, multiple: int, out: Path, *options: str) -> list[str]:
        """Return the arguments of `zoo` that predict an image."""
        return ["predict", str(self.run), str(self.image(multiple)), str(out), "--device", "cpu", *options]

    def decode(self, multiple: int, out: Path, *options: str) -> list[str]:
        """Return the arguments of `zoo` that decode a prediction by components."""
        changes = ["threshold=0.5", "min_size=20"]
        return ["decode", str(self.prediction(multiple)), str(out), *changes, "--method", "components", *options]


def make_material(folder: Path) -> Material:
    """Make all of it in a folder."""
    material = Material(folder)
    make_run(material.run)
    phantom = make_phantom(shape=(EDGE, EDGE, EDGE), seed=0, voxel_size_nm=VOXEL_SIZE_NM)
    probability = np.where(phantom.mitochondria > 0, 230, 20).astype(np.uint8)
    for multiple in MULTIPLES:
        write_tiled(material.image(multiple), phantom.image, multiple, stored=StoredPrediction())
        stored = StoredPrediction(task=get_task("mito"))
        write_tiled(material.prediction(multiple), probability, multiple, stored=stored)
    return material


def make_run(folder: Path) -> None:
    """Write a run folder with a tiny untrained U-Net."""
    task = get_task("mito")
    arch = {"channels": [4, 8], "strides": [[2, 2, 2]], "num_res_units": 0}
    model = resolve_model("monai_unet", in_channels=1, out_channels=len(task.channels), arch=arch)
    run = RunSpec(
        schema_version=1,
        kind="run",
        name="tiny",
        model=model,
        task=task,
        data=DataSpec(voxel_size_nm=VOXEL_SIZE_NM),
        training=model.training,
        prediction=PredictionSpec(window=(WINDOW, WINDOW, WINDOW), overlap=OVERLAP),
    )
    folder.mkdir(parents=True)
    (folder / SPEC_FILE).write_text(dump_yaml(run.model_dump(mode="json")), encoding="utf-8")
    torch.manual_seed(0)
    write_weights(build(model, deep_supervision=False), folder / WEIGHTS_FILE)


def write_tiled(path: Path, tile: NDArray[np.uint8], multiple: int, *, stored: StoredPrediction) -> None:
    """Write a volume that a tile fills, as often as it takes."""
    counts = MULTIPLES[multiple]
    shape = tuple(count * edge for count, edge in zip(counts, tile.shape, strict=True))
    with create_volume(
        path, shape=shape, dtype=tile.dtype, channels=None, voxel_size_nm=VOXEL_SIZE_NM, stored=stored
    ) as volume:
        for position in np.ndindex(*counts):
            start = [at * edge for at, edge in zip(position, tile.shape, strict=True)]
            volume.write(Box.of_shape(tile.shape, start=start), tile)


def read(path: Path) -> NDArray[np.generic]:
    """Return a volume."""
    with open_volume(path) as volume:
        return volume.read(volume.whole)
