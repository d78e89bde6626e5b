"""Level `weights`: the declared files are there, are what they were, fit the network exactly, and compute the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from connectomics_zoo.build import probe_network
from connectomics_zoo.digests import SUMS_FILE, check_sums
from connectomics_zoo.fit import find_misfits
from connectomics_zoo.hub import WEIGHTS_FILE
from connectomics_zoo.load import load_file
from connectomics_zoo.pretrained import find_pretrained, weights_path, with_channels_of
from connectomics_zoo.schema.model import ModelSpec, Probe
from connectomics_zoo.verify.forward_level import compare_probe, require_modest
from connectomics_zoo.verify.report import Check, collect, equal
from connectomics_zoo.verify.select import Target


def check_weights(spec: ModelSpec, target: Target) -> list[Check]:
    """Return the checks of this level: one file for each tag, or the file of a run folder or of a repository."""
    folder = target.path.parent
    checks: list[Check] = []
    if target.hub is not None:
        checks += collect("weights", WEIGHTS_FILE, _on_hub(spec, target.hub))
    elif target.is_run:
        checks += collect("weights", WEIGHTS_FILE, _in_folder(spec, folder))
    else:  # a run's spec may have the weights of the model that it was made from, which lie elsewhere
        for tag in spec.weights:
            checks += collect("weights", f"weights.{tag}", _declared(spec, tag, folder))
    return checks


def _on_hub(spec: ModelSpec, reference: str) -> Iterator[Check]:
    path = find_pretrained(reference).path
    yield Check(f"{path.name}: digest", ok=True)
    yield from _fits(spec, path, path.name)


def _in_folder(spec: ModelSpec, folder: Path) -> Iterator[Check]:
    if (folder / SUMS_FILE).exists():
        check_sums(folder)
        yield Check(f"{WEIGHTS_FILE}: digest", ok=True)
    yield from _fits(spec, folder / WEIGHTS_FILE, WEIGHTS_FILE)


def _declared(spec: ModelSpec, tag: str, folder: Path) -> Iterator[Check]:
    entry = spec.weights[tag]
    path = weights_path(spec, tag, folder=folder)
    yield Check(f"weights.{tag}.sha256", ok=True)
    network = with_channels_of(spec, entry)
    fits = list(_fits(network, path, f"weights.{tag}"))
    yield from fits
    if entry.probe is not None and all(check.ok for check in fits):
        yield from _computes(network, path, entry.probe, f"weights.{tag}")


def _fits(spec: ModelSpec, path: Path, label: str) -> Iterator[Check]:
    """Yield whether keys, shapes and types of the file are those of the network with all heads, or without.

    Floats may be stored in another precision.
    """
    misfits = find_misfits(spec, path)
    if not misfits:
        yield Check(label, ok=True)
    for key, expected, found in misfits[:5]:
        yield equal(f"{label}: {key}", expected, found, "the network's tensor, and the file's")
    if len(misfits) > 5:
        yield Check(label, ok=False, note=f"{len(misfits)} tensors differ")


def _computes(spec: ModelSpec, path: Path, declared: Probe, label: str) -> Iterator[Check]:
    """Yield whether the network with these weights gives the recorded numbers."""
    require_modest(declared.input_shape)
    measured = probe_network(load_file(spec, path), spec, declared.input_shape)
    for check in compare_probe(declared, measured):
        yield dataclasses.replace(check, path=f"{label}.{check.path.removeprefix('expect.')}")
