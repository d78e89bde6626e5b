"""References to specs, and specs as resolved by overrides: from a string to a complete, validated spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError, UnknownNameError, WeightsError, nearest
from connectomics_zoo.hub import HubReference, fetch_spec
from connectomics_zoo.reading import read_yaml
from connectomics_zoo.schema.base import RepoId, describe
from connectomics_zoo.schema.builder import BuilderConfig, Interface, builder_module
from connectomics_zoo.schema.experiment import DataSpec, ExperimentSpec, RunSpec
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tensors import PICKLES

RUN_SPEC = "spec.yaml"
"""Name of the resolved spec in a run folder."""

_Spec = TypeVar("_Spec", bound=BaseModel)

_REFERENCE = re.compile(
    r"^(?:(?P<catalog>[A-Za-z][\w-]*):)?(?P<name>[A-Za-z][\w-]*)(?:@(?P<version>\d+\.\d+\.\d+))?(?:\.(?P<tag>[A-Za-z][\w-]*))?$"
)

_HUB = re.compile(
    r"^hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[A-Za-z0-9][\w.%-]{0,120}))?"
    r"(?:/(?P<file>[A-Za-z0-9][\w.-]{0,120}))?$"
)
_REPO = TypeAdapter(RepoId)


class Reference(NamedTuple):
    """A parsed reference: `path` (a YAML file or a run folder), `hub` (a repository there), or a catalogue name."""

    text: str
    name: str = ""
    catalog: str | None = None
    version: str | None = None
    tag: str | None = None
    path: Path | None = None
    hub: HubReference | None = None


def parse_reference(text: str | Path) -> Reference:
    """Return what `text` refers to.

    That is `name`, `name@1.0.0`, `name.tag`, `catalog:name`, `hf://org/repo@revision`, a YAML file or a run folder. A
    text with a path separator or the suffix `.yaml` is a path; anything else is a name.

    Raises:
        UnknownNameError: it is neither, or both a name in a catalogue and a folder here.
    """
    if isinstance(text, str) and text.startswith("hf:"):
        return Reference(text=text, hub=_parse_hub(text))
    path = Path(text)
    text = str(text)
    if path.suffix in (".safetensors", *PICKLES) and is_there(path) and path.is_file():
        _refuse_file(text, is_pickle=path.suffix in PICKLES)
    if "/" in text or "\\" in text or text in (".", "..") or path.suffix in (".yaml", ".yml"):
        if not is_there(path):
            raise UnknownNameError(f"{text!r} does not exist, give a YAML file, a run folder or the name of a model.")
        return Reference(text=text, path=path)
    match = _REFERENCE.match(text)
    if match is None:
        raise UnknownNameError(
            f"{text!r} is no reference, write name, name@1.0.0, name.tag, catalog:name, a path to a YAML file or a "
            "run folder."
        )
    known = {entry.name for entry in catalog.entries("models")}
    if is_there(path) and path.is_dir():
        if match["name"] not in known:
            return Reference(text=text, path=path)
        raise UnknownNameError(
            f"{text!r} is a model and a folder here, write ./{text} or {_home(match['name'])}:{text}."
        )
    return Reference(text, match["name"], match["catalog"], match["version"], match["tag"])


def _refuse_file(text: str, *, is_pickle: bool) -> NoReturn:
    """Say what to do with weights that come without the spec of their network."""
    if is_pickle:
        raise WeightsError(
            f"{text}: is a pickle, which can run code when it is read, and is not loaded: make safetensors of it with "
            "zoo convert."
        )
    raise WeightsError(
        f"{text}: is a weights file alone, which does not say of what network: give the folder with its spec.yaml, or "
        "start from it with init_from."
    )


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder at `path`, any text; what the system refuses is not there."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that must not be read
        return False


def _parse_hub(text: str) -> HubReference:
    match = _HUB.match(text)
    try:
        return HubReference(_REPO.validate_python(match["repo"] if match else ""), match["revision"], match["file"])  # type: ignore[index]
    except ValidationError:
        raise UnknownNameError(
            f"{text!r} is no reference to the Hub, write hf://org/repo@revision, or "
            "hf://org/repo@revision/file.safetensors where it has several."
        ) from None


def _home(name: str) -> str:
    return next(entry.catalog.name for entry in catalog.entries("models") if entry.name == name)


def validate(kind: type[_Spec], document: Mapping[str, Any], *, source: str) -> _Spec:
    """Return `document` as a spec of type `kind`; `source` names it in the error.

    Raises:
        SpecError: it does not follow the schema; the message names every wrong field (five at most).
    """
    if not isinstance(document, Mapping):
        raise SpecError(f"{source}: holds {type(document).__name__}, a spec is a mapping of keys to values.")
    try:
        return kind.model_validate(dict(document))
    except ValidationError as error:
        raise SpecError(f"{source}: {describe(error)}") from None


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


def check_portable(run: RunSpec, *, source: str) -> None:
    """Refuse a run that comes from elsewhere and names places outside of a folder that the user would give.

    Raises:
        SpecError: `data.root` is a folder, a volume lies elsewhere than below it, or the weights that the run started
            from do.
    """
    strange = [place for place in volumes_of(run.data) if is_elsewhere(place)]
    if run.init_from is not None and is_private_source(run.init_from):
        strange.append(run.init_from)
    if run.data.root not in (None, "???"):
        strange.insert(0, run.data.root)
    if strange:
        raise SpecError(
            f"{source}: names the place {strange[0]!r}, a spec from elsewhere may name files below data.root alone: "
            "tell its owner."
        )


def volumes_of(data: DataSpec) -> list[str]:
    """Return the places of all volumes that `data` names: images, labels and masks."""
    return [place for pair in (*data.train, *data.validation) for place in pair.places]


def is_private_source(init_from: str) -> bool:
    """Whether weights to start from are a place of one machine: not on the Hub, and no relative path or reference."""
    return not init_from.startswith("hf://") and is_elsewhere(init_from)


def is_elsewhere(place: str) -> bool:
    """Whether a path is absolute, leads upwards, or names a protocol, in the spelling of any system."""
    parts = re.split(r"[/\\]", place)
    return (
        place.startswith(("/", "\\", "~"))
        or ".." in parts
        or "://" in place
        or re.match(r"^[A-Za-z]:[/\\]", place) is not None
    )


def get_run(folder: str | Path) -> RunSpec:
    """Return the resolved spec of a run folder.

    Raises:
        UnknownNameError: `folder` is no run folder.
    """
    path = Path(folder) / RUN_SPEC
    if not path.is_file():
        raise UnknownNameError(
            f"{str(folder)!r} is no run folder: it has no {RUN_SPEC}; give the folder that zoo train made."
        )
    return validate(RunSpec, read_yaml(path), source=str(path))


def get_task(ref: str | Path) -> TaskSpec:
    """Return the task called `ref`, or in the YAML file `ref`."""
    path = _path_of("tasks", ref)
    return validate(TaskSpec, read_yaml(path), source=str(path))


def get_experiment(ref: str | Path) -> ExperimentSpec:
    """Return the experiment called `ref`, or in the YAML file `ref`."""
    path = _path_of("experiments", ref)
    return validate(ExperimentSpec, read_yaml(path), source=str(path))


def check_arch(spec: ExperimentSpec) -> None:
    """Refuse changes of the architecture that the experiment's model does not take.

    Raises:
        UnknownNameError: there is no such model, or `arch` has a key that its builder does not have.
        SpecError: a value is not allowed.
    """
    if spec.arch:
        resolve_model(spec.model, arch=spec.arch)


def _path_of(kind: catalog.Kind, ref: str | Path) -> Path:
    if Path(ref).suffix in (".yaml", ".yml"):
        return Path(ref)
    home, _, name = str(ref).rpartition(":")
    return catalog.find(kind, name, catalog=home or None).path


def resolve_model(
    ref: str | Path | ModelSpec,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    arch: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Return the model's spec with overrides: complete, with the interface that the new architecture has.

    Where an override changes the network, what was measured of the declared one is dropped; `build.measure`
    measures it anew. The recipe's patch size is raised to the next legal size where it is no longer legal.

    Raises:
        UnknownNameError: `arch` has a key that the builder does not have.
        SpecError: a value is not allowed.
    """
    spec = get_spec(ref)
    if in_channels is None and out_channels is None and not arch:
        return spec
    document = spec.model_dump(mode="json")
    known = type(spec.arch).model_fields
    for key in arch or {}:
        if key not in known:
            raise UnknownNameError(f"unknown key arch.{key} for {spec.name}: {nearest(key, known)}")
    config = validate_arch(spec.builder, spec.arch.override(arch or {}), source=f"arch of {spec.name}")
    document["arch"] = config.model_dump(mode="json")
    interface = builder_module(spec.builder).interface(config)
    channels = out_channels if out_channels is not None else spec.outputs[0].channels
    document["input"] = {
        "channels": in_channels if in_channels is not None else spec.input.channels,
        "axes": interface.axes,
        "size": {"minimum": interface.minimum, "step": interface.step},
    }
    document["outputs"] = [{**output._asdict(), "channels": channels} for output in interface.outputs]
    document["training"]["patch_size"] = _legal_patch(spec, interface)
    changed = validate(ModelSpec, document | {"expect": None}, source=spec.name)
    same_network = (changed.arch, changed.input, changed.outputs) == (spec.arch, spec.input, spec.outputs)
    return spec if same_network else changed


def _legal_patch(spec: ModelSpec, interface: Interface) -> tuple[int, ...]:
    rank = len(interface.minimum)
    patch = (interface.minimum + spec.training.patch_size)[-rank:]
    return SizeRule(minimum=interface.minimum, step=interface.step).round_up(patch)


def validate_arch(builder: str, arch: Mapping[str, Any], *, source: str) -> BuilderConfig:
    """Return `arch` as the configuration of `builder`, complete with its defaults."""
    return validate(builder_module(builder).Config, arch, source=source)
