"""Level `weights`: the declared files are there, are what they were, and fit the network exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from connectomics_zoo.build import build_meta
from connectomics_zoo.load import weights_path
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.verify.report import Check, collect, equal
from connectomics_zoo.verify.select import Target
from connectomics_zoo.weights import WEIGHTS_FILE, read_weights


def check_weights(spec: ModelSpec, target: Target) -> list[Check]:
    """Return the checks of this level: one file for each tag, or the file of a run folder."""
    folder = target.path.parent
    checks: list[Check] = []
    if target.is_run:
        checks += collect("weights", WEIGHTS_FILE, _fits(spec, folder / WEIGHTS_FILE, WEIGHTS_FILE))
    for tag in spec.weights:
        checks += collect("weights", f"weights.{tag}", _declared(spec, tag, folder))
    return checks


def _declared(spec: ModelSpec, tag: str, folder: Path) -> Iterator[Check]:
    path = weights_path(spec, tag, folder=folder)
    yield Check(f"weights.{tag}.sha256", ok=True)
    yield from _fits(spec, path, f"weights.{tag}")


def _fits(spec: ModelSpec, path: Path, label: str) -> Iterator[Check]:
    """Yield whether keys, shapes and types of the file are those of the network with all heads, or without."""
    found = {key: (list(tensor.shape), str(tensor.dtype)) for key, tensor in read_weights(path).items()}
    wanted = [
        {key: (list(tensor.shape), str(tensor.dtype)) for key, tensor in network.state_dict().items()}
        for network in (build_meta(spec, deep_supervision=True), build_meta(spec, deep_supervision=False))
    ]
    expected = wanted[1] if found.keys() == wanted[1].keys() else wanted[0]
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if not differing:
        yield Check(label, ok=True)
    for key in differing[:5]:
        yield equal(f"{label}: {key}", expected.get(key), found.get(key), "the network's tensor, and the file's")
    if len(differing) > 5:
        yield Check(label, ok=False, note=f"{len(differing)} tensors differ")
