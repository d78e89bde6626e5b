"""From a reference to the spec that it means: parsed once, read once, and handed on as one value.

`resolve` is for what has a network, a model or a run; `find` is for specs of every kind. The others here give a part of
their answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from connectomics_zoo import catalog
from connectomics_zoo.catalog import SPEC_KINDS, SpecKind, names_of
from connectomics_zoo.errors import LimitError, SpecError, UnknownNameError, WeightsError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.hub import fetch_spec
from connectomics_zoo.runs.folder import require_run, spec_in
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec, Spec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.choosing import natural
from connectomics_zoo.specs.reference import Reference, parse_reference

_log = logging.getLogger(__name__)

LookupKind = SpecKind | Literal["run"]
"""What a reference can mean."""

_Named = TypeVar("_Named", TaskSpec, ExperimentSpec)


@dataclass(frozen=True)
class Resolved:
    """What a reference means: a spec, complete and validated, and where it lies."""

    reference: Reference
    """The reference; of a repository, pinned."""
    spec: Spec
    """What the file holds."""
    path: Path
    """The file; of a repository, on this machine."""
    entry: catalog.Entry | None = None
    """Its place in a catalogue, where it has one."""

    @property
    def run(self) -> RunSpec | None:
        """How the network was trained; None where the spec is not of a run."""
        return self.spec if isinstance(self.spec, RunSpec) else None

    @property
    def model(self) -> ModelSpec:
        """The network: that of the run, or the spec itself."""
        model = self.spec.model if isinstance(self.spec, RunSpec) else self.spec
        assert isinstance(model, ModelSpec), "tasks and experiments have no network"
        return model


class _File(NamedTuple):
    """The file of a reference, and what it holds where it has been read on the way."""

    path: Path
    entry: catalog.Entry | None = None
    document: dict[str, Any] | None = None

    def read(self) -> dict[str, Any]:
        return read_yaml(self.path) if self.document is None else self.document


def _find_file(reference: Reference) -> _File:
    """Find the file of a model or run; one on the Hub is fetched."""
    if reference.hub is not None:
        return _File(fetch_spec(reference.hub))
    if reference.path is None:
        return _find_version(reference)
    if reference.path.is_dir():
        return _File(spec_in(reference.path))
    return _File(reference.path)


def _find_version(reference: Reference) -> _File:
    """Find a reference by name in the catalogues, the current version where none is asked for."""
    if reference.version is not None:
        current = [
            entry
            for entry in catalog.entries("model")
            if entry.name == reference.name
            and entry.version is None
            and reference.catalog in (None, entry.catalog.name)
        ]
        documents = [read_yaml(entry.path) for entry in current]
        versions = [document.get("version") for document in documents]
        if versions == [reference.version]:
            return _File(current[0].path, current[0], documents[0])
        beside = {entry.version for entry in catalog.entries("model") if entry.name == reference.name}
        if current and reference.version not in beside:
            known = {str(version) for version in (*versions, *beside) if version is not None}
            raise UnknownNameError(
                f"model {reference.name!r} has no version {reference.version!r}: {nearest(reference.version, known)}"
            )
    entry = catalog.find("model", reference.name, version=reference.version, catalog=reference.catalog)
    return _File(entry.path, entry)


def spec_path(reference: Reference) -> Path:
    """Return the file that holds the model (or run) spec of `reference`; one on the Hub is fetched."""
    return _find_file(reference).path


def resolve(ref: str | Path | Reference) -> Resolved:
    """Return the model or run that a reference means.

    Args:
        ref: a reference (see `parse_reference`), as text or parsed.

    Raises:
        UnknownNameError: there is no such model, version or file.
        SpecError: the file does not follow the schema.
        WeightsError: the reference names weights that the spec does not have.
        HubError: the Hub does not give it.
    """
    reference = parse_reference(ref)
    file = _find_file(reference)
    return _resolved(reference, file, file.read())


def _resolved(reference: Reference, file: _File, document: Mapping[str, Any]) -> Resolved:
    if document.get("kind") == "run":
        return Resolved(reference, run_of_document(document, reference, source=str(file.path)), file.path)
    spec = validate(ModelSpec, document, source=str(file.path))
    if reference.tag is not None:
        check_tag(spec, reference.tag)
    return Resolved(reference, spec, file.path, file.entry)


def run_of_document(document: Mapping[str, Any], reference: Reference, *, source: str) -> RunSpec:
    """Return a document as the spec of a run; what comes from the Hub may name places below `data.root` alone.

    Raises:
        SpecError: it does not follow the schema, or names another place.
    """
    run = validate(RunSpec, document, source=source)
    if reference.hub is not None:
        check_portable(run, source=reference.text)
    return run


def get_spec(ref: str | Path | Reference | ModelSpec) -> ModelSpec:
    """Return the complete, validated spec of a model.

    Args:
        ref: a reference (see `parse_reference`) or a spec, which is returned as it is.

    Raises:
        UnknownNameError: there is no such model, version or file.
        SpecError: the file does not follow the schema.
        WeightsError: the reference names weights that the spec does not have.
    """
    return ref if isinstance(ref, ModelSpec) else resolve(ref).model


def every_model() -> dict[str, ModelSpec]:
    """Return the current version of every model by its reference, sorted by name; a broken one is a warning."""
    found = {}
    entries = [entry for entry in catalog.entries("model") if entry.version is None]
    homes = Counter(entry.name for entry in entries)
    for entry in sorted(entries, key=lambda item: (natural(item.name), item.catalog.name)):
        try:
            spec = get_spec(f"{entry.catalog.name}:{entry.name}")
        except (SpecError, LimitError, UnknownNameError) as error:
            _log.warning("left out: %s", error)
        else:
            found[f"{entry.catalog.name}:{entry.name}" if homes[entry.name] > 1 else entry.name] = spec
    return found


def check_tag(spec: ModelSpec, tag: str | None) -> None:
    """Refuse a `tag` that the spec has no weights of; None asks for any.

    Raises:
        WeightsError: there are no such weights.
    """
    if not spec.weights:
        raise WeightsError(f"{spec.name} has no trained weights, load it without pretrained or train it.")
    if tag is not None and tag not in spec.weights:
        raise WeightsError(f"{spec.name} has no weights {tag!r}: {nearest(tag, spec.weights)}")


def get_task(ref: str | Path) -> TaskSpec:
    """Return the task called `ref`, or in the YAML file `ref`."""
    return _read_named("task", ref, TaskSpec)[0]


def get_experiment(ref: str | Path) -> ExperimentSpec:
    """Return the experiment called `ref`, or in the YAML file `ref`."""
    return _read_named("experiment", ref, ExperimentSpec)[0]


def _read_named(kind: SpecKind, ref: str | Path, spec_type: type[_Named]) -> tuple[_Named, _File]:
    """Return a task or an experiment by name, `catalog:name`, or path."""
    if Path(ref).suffix in (".yaml", ".yml"):
        file = _File(Path(ref))
    else:
        home, _, name = str(ref).rpartition(":")
        entry = catalog.find(kind, name, catalog=home or None)
        file = _File(entry.path, entry)
    return validate(spec_type, file.read(), source=str(file.path)), file


def find_spec(ref: str, *, kind: LookupKind | None = None) -> Spec:
    """Return the complete spec of a model, task, experiment or run; see `find`."""
    return resolve_any(ref, kind=kind).spec


def resolve_any(ref: str, *, kind: LookupKind | None = None) -> Resolved:
    """Return what a reference to a spec of any kind means.

    Args:
        ref: a name, `name@1.0.0`, `name.tag`, `catalog:name`, `hf://org/repo@revision`, a YAML file, or a run folder.
        kind: what it is, where a name means several things; otherwise it is found out. Of a run, `model` is its model.

    Raises:
        UnknownNameError: there is nothing of that name.
        SpecError: the name means several things, or the file is no spec.
    """
    kind = kind or _kind_of_name(ref)
    if kind == "task":
        return _named(ref, *_read_named("task", ref, TaskSpec))
    if kind == "experiment":
        return _named(ref, *_read_named("experiment", ref, ExperimentSpec))
    reference = parse_reference(ref)
    if reference.path is None and reference.hub is None:
        if kind == "run":
            require_run(ref)  # refuses, since a name is no run folder
        if kind is None:
            _refuse_unknown(reference)
        return resolve(reference)
    file = _find_file(reference)
    document = file.read()
    source = str(file.path)
    match kind or _kind_of_document(document, source=file.path):
        case "model":
            return replace(found := _resolved(reference, file, document), spec=found.model)
        case "run":
            return Resolved(reference, run_of_document(document, reference, source=source), file.path)
        case "task":
            return Resolved(reference, validate(TaskSpec, document, source=source), file.path)
        case "experiment":
            return Resolved(reference, validate(ExperimentSpec, document, source=source), file.path)


def _named(ref: str, spec: TaskSpec | ExperimentSpec, file: _File) -> Resolved:
    return Resolved(Reference(ref, spec.name), spec, file.path, file.entry)


def _kind_of_name(ref: str) -> SpecKind | None:
    """Return of what kind the spec called `ref` is; None where no catalogue has a spec of just that name."""
    name = ref.rpartition(":")[2]
    kinds = [kind for kind in SPEC_KINDS if name in names_of(kind)]
    if len(kinds) > 1:
        raise SpecError(f"{ref!r} is a {' and a '.join(kinds)}, say which with --kind {kinds[0]}.")
    return kinds[0] if kinds else None


def _refuse_unknown(reference: Reference) -> None:
    """Refuse a name that is of no kind, as the model that it is taken for is named with a version or tag."""
    known = names_of(*SPEC_KINDS)
    if reference.name not in known:
        raise UnknownNameError(
            f"unknown model, task or experiment {reference.text!r}: {nearest(reference.name, known)}"
        )


def _kind_of_document(document: Mapping[str, Any], *, source: Path) -> LookupKind:
    """Tell the kinds apart by the fields that only they have."""
    if document.get("kind") == "run":
        return "run"
    marks: dict[str, SpecKind] = {"builder": "model", "channels": "task", "data": "experiment"}
    for mark, kind in marks.items():
        if mark in document:
            return kind
    raise SpecError(f"{source}: no model, task or experiment (it has no builder, channels or data), is it a spec?")
