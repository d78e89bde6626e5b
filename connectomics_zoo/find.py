"""Finds the spec that a reference means, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo import catalog
from connectomics_zoo.compare import Spec
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.reading import read_yaml
from connectomics_zoo.registry import (
    get_experiment,
    get_run,
    get_spec,
    get_task,
    parse_reference,
    run_of_document,
    spec_path,
)

Kind = Literal["model", "task", "experiment", "run"]

_FOLDERS: dict[catalog.Kind, Kind] = {"models": "model", "tasks": "task", "experiments": "experiment"}


def find_spec(ref: str, *, kind: Kind | None = None) -> Spec:
    """Return the complete spec of a model, task, experiment or run.

    Args:
        ref: a name, `name@1.0.0`, `name.tag`, `catalog:name`, `hf://org/repo@revision`, a YAML file, or a run folder.
        kind: what it is, where a name means several things; otherwise it is found out.

    Raises:
        UnknownNameError: there is nothing of that name.
        SpecError: the name means several things, or the file is no spec.
    """
    kind = kind or _find_kind(ref)
    if kind == "task":
        return get_task(ref)
    if kind == "experiment":
        return get_experiment(ref)
    if kind == "run":
        reference = parse_reference(ref)
        if Path(ref).is_dir() or (reference.path is None and reference.hub is None):
            return get_run(ref)
        path = spec_path(reference)
        return run_of_document(read_yaml(path), reference, source=str(path))
    return get_spec(ref)


def _find_kind(ref: str) -> Kind:
    names = {kind: {entry.name for entry in catalog.entries(folder)} for folder, kind in _FOLDERS.items()}
    name = ref.rpartition(":")[2]
    kinds = [kind for kind, known in names.items() if name in known]
    if len(kinds) > 1:
        raise SpecError(f"{ref!r} is a {' and a '.join(kinds)}, say which with --kind {kinds[0]}.")
    if kinds:
        return kinds[0]
    reference = parse_reference(ref)
    if reference.path is not None or reference.hub is not None:
        path = spec_path(reference)
        return _kind_of_document(read_yaml(path), source=path)
    known = set().union(*names.values())
    if reference.name not in known:
        raise UnknownNameError(f"unknown model, task or experiment {ref!r}: {nearest(reference.name, known)}")
    return "model"


def _kind_of_document(document: Mapping[str, Any], *, source: Path) -> Kind:
    """Tell the kinds apart by the fields that only they have."""
    if document.get("kind") == "run":
        return "run"
    marks: dict[str, Kind] = {"builder": "model", "channels": "task", "data": "experiment"}
    for mark, kind in marks.items():
        if mark in document:
            return kind
    raise SpecError(f"{source}: no model, task or experiment (it has no builder, channels or data), is it a spec?")
