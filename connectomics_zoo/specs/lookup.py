"""References to specs, and specs as resolved by overrides: from a string to a complete, validated spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError, UnknownNameError, WeightsError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.hub import fetch_spec
from connectomics_zoo.runs.folder import RUN_SPEC, get_run
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec, Spec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.reference import Reference, parse_reference


def find_entry(reference: Reference) -> catalog.Entry:
    """Return the catalogue entry of a reference by name, the current version where none is asked for."""
    if reference.version is not None:
        current = [
            entry
            for entry in catalog.entries("models")
            if entry.name == reference.name
            and entry.version is None
            and reference.catalog in (None, entry.catalog.name)
        ]
        versions = [read_yaml(entry.path).get("version") for entry in current]
        if versions == [reference.version]:
            return current[0]
        beside = {entry.version for entry in catalog.entries("models") if entry.name == reference.name}
        if current and reference.version not in beside:
            known = {str(version) for version in (*versions, *beside) if version is not None}
            raise UnknownNameError(
                f"model {reference.name!r} has no version {reference.version!r}: {nearest(reference.version, known)}"
            )
    return catalog.find("models", reference.name, version=reference.version, catalog=reference.catalog)


def spec_path(reference: Reference) -> Path:
    """Return the file that holds the model (or run) spec of `reference`; one on the Hub is fetched."""
    if reference.hub is not None:
        return fetch_spec(reference.hub)
    if reference.path is None:
        return find_entry(reference).path
    if reference.path.is_dir():
        if not (reference.path / RUN_SPEC).is_file():
            raise UnknownNameError(f"{reference.text!r} is a folder without {RUN_SPEC}, a run folder has one.")
        return reference.path / RUN_SPEC
    return reference.path


def get_spec(ref: str | Path | ModelSpec) -> ModelSpec:
    """Return the complete, validated spec of a model.

    Args:
        ref: a reference (see `parse_reference`) or a spec, which is returned as it is.

    Raises:
        UnknownNameError: there is no such model, version or file.
        SpecError: the file does not follow the schema.
        WeightsError: the reference names weights that the spec does not have.
    """
    if isinstance(ref, ModelSpec):
        return ref
    reference = parse_reference(ref)
    path = spec_path(reference)
    document = read_yaml(path)
    if document.get("kind") == "run":
        return run_of_document(document, reference, source=str(path)).model
    spec = validate(ModelSpec, document, source=str(path))
    if reference.tag is not None:
        check_tag(spec, reference.tag)
    return spec


def check_tag(spec: ModelSpec, tag: str | None) -> None:
    """Refuse a `tag` that the spec has no weights of; None asks for any.

    Raises:
        WeightsError: there are no such weights.
    """
    if not spec.weights:
        raise WeightsError(f"{spec.name} has no trained weights, load it without pretrained or train it.")
    if tag is not None and tag not in spec.weights:
        raise WeightsError(f"{spec.name} has no weights {tag!r}: {nearest(tag, spec.weights)}")


def run_of_document(document: Mapping[str, Any], reference: Reference, *, source: str) -> RunSpec:
    """Return a document as the spec of a run; what comes from the Hub may name places below `data.root` alone.

    Raises:
        SpecError: it does not follow the schema, or names another place.
    """
    run = validate(RunSpec, document, source=source)
    if reference.hub is not None:
        check_portable(run, source=reference.text)
    return run


def get_task(ref: str | Path) -> TaskSpec:
    """Return the task called `ref`, or in the YAML file `ref`."""
    path = _path_of("tasks", ref)
    return validate(TaskSpec, read_yaml(path), source=str(path))


def get_experiment(ref: str | Path) -> ExperimentSpec:
    """Return the experiment called `ref`, or in the YAML file `ref`."""
    path = _path_of("experiments", ref)
    return validate(ExperimentSpec, read_yaml(path), source=str(path))


def _path_of(kind: catalog.Kind, ref: str | Path) -> Path:
    if Path(ref).suffix in (".yaml", ".yml"):
        return Path(ref)
    home, _, name = str(ref).rpartition(":")
    return catalog.find(kind, name, catalog=home or None).path


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
