"""Whether the input pipeline keeps up: patches a second from HDF5 and Zarr beside training steps of the network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from connectomics_zoo.bench.timing import Timing, alternate
from connectomics_zoo.bench.variants import Variant, loss_weights, make_input, make_network, train_step
from connectomics_zoo.phantom import make_phantom
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.train.data import training_loader
from connectomics_zoo.train.patches import Patch
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.volumes import create_volume
from performance.common import Settings, aim, seconds, shape, table, this_machine, threads, times

EXPERIMENT = "vnc-mito"
AIM = 2
"""Patches a second of the loader over those that the network takes."""

BATCHES = 10
"""Batches of a round."""

PHANTOM_SHAPE = (16, 512, 512)
TILES = (1, 2, 2)
"""The volume is the phantom, repeated: as large as the data of the experiment, and made in a quarter of the time."""

CPU = torch.device("cpu")
FORMATS = {"HDF5": ("{}.h5:main", "{}.h5:main"), "Zarr": ("{}.zarr", "{}.zarr:0")}
"""What each volume is called when it is written, and when it is read."""


def measure(settings: Settings) -> dict[str, Any]:
    """Loaders of one process each and training steps of the network take turns."""
    with tempfile.TemporaryDirectory() as name, threads(settings.threads):
        runs = _write_runs(Path(name), quick=settings.quick)
        run = next(iter(runs.values()))
        steps: dict[str, Callable[[], object]] = {label: _loader(run) for label, run in runs.items()}
        network = make_network(run.model, "default", "training", device=CPU)
        patch = (run.training.batch_size, run.model.input.channels, *run.training.patch_size)
        x = make_input(patch, device=CPU)
        for precision in ("float32", "bfloat16"):
            variant, weights = Variant("default", precision), loss_weights(run.model)
            steps[precision] = lambda variant=variant, weights=weights: train_step(network, x, variant, weights=weights)
        for step in steps.values():
            step()
        timings = alternate(steps, rounds=settings.rounds)
        return {
            "machine": this_machine("h5py", "zarr"),
            "model": run.model.name,
            "patch": run.training.patch_size,
            "downsample": run.data.downsample,
            "batch": run.training.batch_size,
            "loader_seconds": {label: _per_patch(timings[label], BATCHES * run.training.batch_size) for label in runs},
            "network_seconds": {
                label: _per_patch(timings[label], run.training.batch_size) for label in ("float32", "bfloat16")
            },
        }


def _per_patch(timing: Timing, patches: int) -> float:
    return timing.median / patches


def _loader(run: RunSpec) -> Callable[[], object]:
    """Return what takes the next `BATCHES` batches from the loader that training uses."""
    stream: Iterator[Patch] = iter(training_loader(run))
    return lambda: [next(stream) for _ in range(BATCHES)]


def _write_runs(folder: Path, *, quick: bool) -> dict[str, RunSpec]:
    """Write the phantom in each format and return the experiment on it."""
    declared = (50.0, 4.6, 4.6)
    phantom = make_phantom(shape=(16, 400, 400) if quick else PHANTOM_SHAPE, seed=1, voxel_size_nm=declared)
    runs = {}
    for label, (written, read) in FORMATS.items():
        for name, part in (("raw", phantom.image), ("mitochondria", phantom.mitochondria)):
            array = np.tile(part, TILES)
            target = folder / written.format(name)
            with create_volume(
                target, shape=array.shape, dtype=array.dtype, channels=None, voxel_size_nm=declared
            ) as volume:
                volume.write(volume.whole, array)
        pair = {"image": read.format("raw"), "label": read.format("mitochondria")}
        data = {"root": str(folder), "train": [pair], "validation": []}
        # Without workers: these would read ahead while the network has its turn.
        runs[label] = resolve_run(EXPERIMENT, {"data": data, "training": {"workers": 0}})
    return runs


def render(data: dict[str, Any]) -> str:
    """Write both rates, and what one is of the other."""
    network = data["network_seconds"]
    rows = [
        [
            label,
            f"{1 / value:.1f}",
            *(f"{1 / network[precision]:.2f}" for precision in network),
            *(times(network[precision] / value, digits=1) for precision in network),
            aim(AIM),
        ]
        for label, value in data["loader_seconds"].items()
    ]
    headers = [
        "volume",
        "loader, patches/s >",
        *(f"network in {precision}, patches/s >" for precision in network),
        *(f"ratio in {precision} >" for precision in network),
        "aim >",
    ]
    fastest = min(network.values())
    return "\n\n".join(
        [
            f"{data['model']} with the recipe of `{EXPERIMENT}` on a phantom: patches of {shape(data['patch'])} "
            f"network voxels, each the mean of {shape(data['downsample'])} volume voxels, batch {data['batch']}, full "
            f"augmentation; a training step takes at least {seconds(fastest)}. One loader process, volumes on disk:",
            table(headers, rows),
        ]
    )
