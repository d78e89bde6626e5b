"""Level `weights`: the declared files are there, are what they were, fit the network exactly, and compute the same."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from connectomics_zoo.errors import LimitError, MissingPackageError
from connectomics_zoo.files.digests import SUMS_FILE, check_sums
from connectomics_zoo.network.build import probe_network
from connectomics_zoo.runs.folder import METRICS_FILE, SPEC_FILE, WEIGHTS_FILE, get_run, write_run
from connectomics_zoo.runs.metrics import has_metrics, read_metrics
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec, Probe
from connectomics_zoo.specs.expectation import Check, compare_probe, equal
from connectomics_zoo.specs.identity import is_same_network
from connectomics_zoo.specs.lookup import Resolved, check_tag
from connectomics_zoo.specs.selection import Target
from connectomics_zoo.verify.forward_level import require_modest
from connectomics_zoo.verify.report import collect
from connectomics_zoo.weights.load import load_file
from connectomics_zoo.weights.match import find_misfits
from connectomics_zoo.weights.pretrained import (
    Pretrained,
    embedded_run,
    weights_beside,
    weights_path,
    with_channels_of,
)

TOLERANCE = 0.005
"""Between a declared score and the one that is measured again."""


def check_weights(spec: ModelSpec, target: Target, data: Sequence[Path] = ()) -> list[Check]:
    """Return the checks of this level: one file for each tag, or the file beside the spec or in its repository.

    Args:
        spec: the spec in `target`.
        target: what is verified.
        data: folders with volumes, on which declared scores are measured again; without any, they are not.
    """
    folder = target.path.parent
    checks: list[Check] = []
    if target.hub is not None:
        checks += collect("weights", WEIGHTS_FILE, _on_hub(spec, target))
        if data:
            checks += collect(
                "weights", "metrics", _unmeasured("metrics", "the scores of a repository are in its card")
            )
    elif _lies_beside_weights(spec, target):
        checks += collect("weights", WEIGHTS_FILE, _in_folder(spec, folder))
        if data and all(check.ok for check in checks):
            checks += collect("weights", METRICS_FILE, _scores_of_run(target, data))
    else:  # a run's spec may have the weights of the model that it was made from, which lie elsewhere
        if target.tag is not None:
            checks += collect("weights", f"weights.{target.tag}", _known(spec, target.tag))
        for tag in spec.weights if target.tag is None else spec.weights.keys() & {target.tag}:
            found = list(collect("weights", f"weights.{tag}", _declared(spec, tag, folder)))
            if data and all(check.ok for check in found):
                found += collect("weights", f"weights.{tag}.metrics", _scores_declared(spec, tag, folder, data))
            checks += found
    return checks


def _lies_beside_weights(spec: ModelSpec, target: Target) -> bool:
    """Whether a folder with weights is meant: a run's, or as `zoo convert` makes one, whose spec declares none."""
    if target.is_folder or target.is_run:
        return True
    return target.path.name == SPEC_FILE and not spec.weights and (target.path.parent / WEIGHTS_FILE).is_file()


def _known(spec: ModelSpec, tag: str) -> Iterator[Check]:
    check_tag(spec, tag)
    yield Check(f"weights.{tag}", ok=True)


def _on_hub(spec: ModelSpec, target: Target) -> Iterator[Check]:
    assert target.reference is not None
    path = weights_beside(Resolved(target.reference, spec, target.path)).path
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


def _scores_declared(spec: ModelSpec, tag: str, folder: Path, data: Sequence[Path]) -> Iterator[Check]:
    """Yield whether weights of a spec still have the scores that it declares."""
    entry = spec.weights[tag]
    label = f"weights.{tag}.metrics"
    network, path = with_channels_of(spec, entry), weights_path(spec, tag, folder=folder)
    run = embedded_run(Pretrained(f"{spec.name}.{tag}", network, path, entry=entry))
    if run is None:
        yield from _unmeasured(label, "the file does not say how the weights were trained")
        return
    same = is_same_network(run.model, network)
    yield Check(f"weights.{tag}.network", same, note="" if same else "the spec in the file is of another network")
    if not same:
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        write_run(run, copy)
        shutil.copyfile(path, copy / WEIGHTS_FILE)
        yield from _scores(copy, run, entry.metrics, data, label=label)


def _scores_of_run(target: Target, data: Sequence[Path]) -> Iterator[Check]:
    """Yield whether the weights of a run folder still have the scores that training wrote down."""
    folder = target.path.parent
    if not target.is_run or not has_metrics(folder):
        yield from _unmeasured("metrics", f"no scores ({METRICS_FILE}) lie beside the weights")
        return
    run = get_run(folder)
    declared, _, _ = read_metrics(folder)
    own = () if run.data.folder is None else (run.data.folder,)
    yield from _scores(folder, run, declared, (*data, *own), label=METRICS_FILE)


def _scores(
    folder: Path, run: RunSpec, declared: Mapping[str, float], data: Sequence[Path], *, label: str
) -> Iterator[Check]:
    """Yield whether each declared score is measured again, where its data is at hand."""
    from connectomics_zoo.train.run import score_validation
    from connectomics_zoo.verify.validation_scores import (
        OBJECT_SCORES,
        place_volumes,
        validation_files,
        validation_object_scores,
    )

    placed = place_volumes(run, data)
    if placed is None or not declared:
        missing = ", ".join(str(file) for file in validation_files(run) if not any((at / file).exists() for at in data))
        reason = f"no folder given with --data has {missing}" if missing else "its volumes lie in several folders"
        if not run.data.validation:
            reason = "the run has no validation data"
        yield from _unmeasured(label, reason if declared else "no score is declared")
        return
    measured = score_validation(folder, placed)
    reason = "it is no score of this task"
    if any(f"val/{name}" in declared for name in OBJECT_SCORES):
        try:
            measured |= validation_object_scores(folder, placed)
        except (LimitError, MissingPackageError) as error:
            reason = str(error)
    for name, value in declared.items():
        if name not in measured:
            yield from _unmeasured(f"{label}.{name}", reason)
            continue
        ok = abs(value - measured[name]) <= TOLERANCE
        note = "" if ok else f"they may differ by {TOLERANCE}"
        yield Check(f"{label}.{name}", ok, value, round(measured[name], 6), note, is_score=True)


def _unmeasured(label: str, reason: str) -> Iterator[Check]:
    yield Check(label, ok=True, note=f"not measured again: {reason}", is_score=True, skipped=True)
