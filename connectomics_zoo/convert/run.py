"""`convert`: from another project's checkpoint to a folder with safetensors and a spec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from connectomics_zoo.convert.checkpoint import read_foreign_checkpoint
from connectomics_zoo.convert.choose import Choice, choose
from connectomics_zoo.convert.copies import without_copies
from connectomics_zoo.convert.key_map import KeyMap, get_key_map, key_maps
from connectomics_zoo.convert.network import Fit, assumed
from connectomics_zoo.convert.onnx_network import find_onnx_network
from connectomics_zoo.convert.pick import Picked, pick, pick_at, recognise, unread_averages
from connectomics_zoo.convert.plans import Planned, planned_network
from connectomics_zoo.convert.plans_recipe import not_said, taken
from connectomics_zoo.convert.source import Source, find_source
from connectomics_zoo.convert.tensor_map import Mapped, TensorMap, apply_map, read_tensor_map
from connectomics_zoo.errors import OutputError, WeightsError
from connectomics_zoo.files.atomic import refuse_existing, whole_folder
from connectomics_zoo.files.digests import file_sha256, write_sums
from connectomics_zoo.network.build import build, build_meta, count_parameters, measure_expectation
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.spec_file import write_spec
from connectomics_zoo.weights.storage import save_tensors

UNRELEASED = "0.0.0"
"""Version of a spec whose channels are the checkpoint's: what determines a network never changes under a release."""

_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types that a network may be stored in, whatever it computes in."""


@dataclass(frozen=True)
class Conversion:
    """What was converted; together, the counts and keys say what became of every tensor."""

    folder: str
    """The folder that was written: `model.safetensors` and `spec.yaml`."""
    file: str
    """The checkpoint, as it was given."""
    sha256: str
    """Digest of the checkpoint."""
    format: str
    """Which format it has."""
    place: str
    """Where in it the tensors lay, by the keys on the way; empty for the top."""
    averaged: bool
    """Whether they are averages over the training (EMA)."""
    prefix: str
    """What was removed from the start of every key."""
    dropped: tuple[str, ...]
    """Keys that lay beside the network's and are no part of it."""
    left_aside: tuple[str, ...]
    """Places with other tensors or averages, none of which was taken."""
    inert: tuple[str, ...]
    """Names in the pickle that were replaced, so that nothing of them was imported or run."""
    map: str | None
    """Name of the map that tensors were renamed by, None without one."""
    mapped: int
    """How many of them it gave another name or order of axes."""
    model: str
    """The model, but for its channels."""
    same: tuple[str, ...]
    """Other models of the catalogues that are the same network."""
    input_channels: int
    output_channels: int
    assumed: dict[str, Any]
    """Fields of the architecture that no tensor tells, with the values that the model has."""
    tensors: int
    """Tensors of the network, every one from the file but those `filled`."""
    renamed: int
    """How many of them have another implementation's name in the file."""
    filled: tuple[str, ...]
    """Tensors that no output depends on and that the file does not have: as the network begins with."""
    parameters: int
    """Parameter elements among them."""
    dtypes: dict[str, int]
    """Tensors of each type; types are kept."""
    absent: tuple[str, ...]
    """Heads of deep supervision that the file does not have; loaded for training, they start fresh."""
    folded: tuple[str, ...] = ()
    """Batch norms that an ONNX file has as a part of the convolution before them: here they change nothing."""
    proof: str | None = None
    """Of an ONNX file: how far what it gives and what the network gives were apart, in words."""
    copies: int = 0
    """Tensors that lay there once more under another name, as nnU-Net's networks have it."""
    recipe: tuple[str, ...] = ()
    """What of nnU-Net's plans, beside the network, stands in the spec."""
    not_said: tuple[str, ...] = ()
    """What of nnU-Net's plans the spec cannot say, with what to do about it."""


def convert(
    file: str | Path,
    output: str | Path,
    *,
    model: str | Path | ModelSpec | None = None,
    source_format: str | None = None,
    averaged: bool | None = None,
    at: str | None = None,
    tensor_map: str | Path | TensorMap | None = None,
) -> Conversion:
    """Write the folder `output` with the weights in the checkpoint `file` and the spec of their network.

    The checkpoint is read without importing or running anything that it names. The folder is a reference as any other
    (`zoo.load(output)`); at no moment does a half-written one have that name.

    Args:
        file: a checkpoint of the original MedNeXt, of PyTorch Connectomics, of nnU-Net v2, of a Lightning module, an
            exported program (.pt2), or a plain state dict, also as safetensors, and that also on the Hub
            (`hf://org/repo@commit/file.safetensors`). Or an ONNX file: its operations are run, by ONNX Runtime or by
            onnx itself, beside the network to see that both do the same.
        output: the folder, which must not exist.
        model: the model that the weights are of; by default, the one that has exactly these tensors, where these
            tell all of it, or the network of nnU-Net's plans. The channels are those of the checkpoint.
        source_format: name of the format (see `key_map.key_maps`); by default, it is recognised.
        averaged: True for averages over the training (EMA), False for its last state, None for averages if there are.
        at: where the tensors lie, by the keys on the way with a slash between; its end may be what their names begin
            with. By default, where the format has them, or the one place with such a network.
        tensor_map: how its tensors become the network's: a YAML file, see `tensor_map.TensorMap`.

    Raises:
        WeightsError: the checkpoint is missing, damaged, unsafe, not of that model or of any, or holds several
            networks, or the map does not fit it.
        SpecError: the map cannot be read, or is none, or nnU-Net's plans ask for a network that no model here is.
        HubError: the file cannot be had from the Hub.
        LimitError: it is too large.
        OutputError: the folder exists, or cannot be written.
        UnknownNameError: there is no such model or format.
    """
    output = Path(output)
    _check_place(output)
    maps = list(key_maps().values()) if source_format is None else [get_key_map(source_format)]
    declared = None if model is None else get_spec(model)
    renaming = read_tensor_map(Path(tensor_map)) if isinstance(tensor_map, str | Path) else tensor_map
    source = find_source(file)
    if source.path.suffix.lower() == ".onnx":
        _refuse_choices(source, source_format=source_format, averaged=averaged, at=at, tensor_map=tensor_map)
        return _convert_onnx(source, output, declared=declared)
    checkpoint = read_foreign_checkpoint(source.path, maps)
    key_map = recognise(checkpoint, maps, source=source.name)
    places = pick(checkpoint, key_map, source=source.name)
    candidates = places if at is None else [pick_at(at, checkpoint, places, source=source.name)]
    mapped = None if renaming is None else _map(candidates, renaming, source=source.name)
    if mapped is not None:
        candidates = [replace(candidates[0], tensors=mapped.tensors)]
    candidates = [without_copies(picked, source=source.name) for picked in candidates]
    planned = None
    if declared is None and key_map.architecture == "plans":
        planned = planned_network(checkpoint.content, candidates, file=source.path)
        declared = None if planned is None else planned.spec
    choice = choose(candidates, key_map, declared=declared, averaged=averaged, source=source.name)
    fit = choice.fit
    tensors = _tensors_of(fit, choice.picked, source=source.name)
    spec = _spec_of(fit, source)
    digest = file_sha256(source.path)
    _write(output, tensors, spec, metadata=_origin(key_map, source, renaming, digest))
    return Conversion(
        folder=str(output),
        file=source.name,
        sha256=digest,
        format=key_map.name,
        place=choice.picked.place,
        averaged=choice.averaged,
        prefix=fit.match.prefix,
        dropped=(mapped.dropped if mapped is not None else ()) + fit.match.outside,
        left_aside=_left_aside(choice, places) + unread_averages(checkpoint, places),
        inert=checkpoint.pickled,
        map=None if renaming is None else renaming.name,
        mapped=0 if mapped is None else mapped.changed,
        copies=choice.picked.copies,
        **(_network_facts(fit, spec, tensors) | _plan_facts(planned, spec)),
    )


def _refuse_choices(source: Source, **choices: object) -> None:
    """Refuse what is said of checkpoints: an ONNX file holds one network, and says all of it."""
    names = {"source_format": "--from", "averaged": "--ema", "at": "--at", "tensor_map": "--map"}
    given = [names[name] for name, value in choices.items() if value is not None]
    if given:
        raise WeightsError(f"{source.name}: an ONNX file holds one network, for which {given[0]} means nothing.")


def _convert_onnx(source: Source, output: Path, *, declared: ModelSpec | None) -> Conversion:
    """Write what an ONNX file holds; see `convert`."""
    found = find_onnx_network(source.path, declared=declared)
    tensors = _tensors_of(found.fit, Picked("", averaged=False, tensors=found.tensors, rank=0), source=source.name)
    spec = _spec_of(found.fit, source)
    digest = file_sha256(source.path)
    _write(output, tensors, spec, metadata={"converted_from": "onnx", "source_sha256": digest})
    return Conversion(
        folder=str(output),
        file=source.name,
        sha256=digest,
        format="onnx",
        place="",
        averaged=False,
        prefix=found.fit.match.prefix,
        dropped=(),
        left_aside=(),
        inert=(),
        map=None,
        mapped=0,
        folded=found.folded,
        proof=found.proof,
        **_network_facts(found.fit, spec, tensors),
    )


def _plan_facts(planned: Planned | None, spec: ModelSpec) -> dict[str, Any]:
    """The fields of a `Conversion` that are about nnU-Net's plans."""
    if planned is None:
        return {}
    return {"same": planned.same, "recipe": taken(spec), "not_said": not_said(planned.plans, spec)}


def _map(candidates: Sequence[Picked], renaming: TensorMap, *, source: str) -> Mapped:
    """Apply a map to the tensors of the one place that it is for."""
    if len(candidates) > 1:
        places = ", ".join(picked.place or "the top" for picked in candidates)
        raise WeightsError(f"{source}: has tensors at {places}, say by --at which of them --map is for.")
    return apply_map(candidates[0].tensors, renaming, source=source)


def _origin(key_map: KeyMap, source: Source, renaming: TensorMap | None, digest: str) -> dict[str, str]:
    """What the written file says of where its tensors are from."""
    origin = {"converted_from": key_map.name, "source_sha256": digest}
    if source.name != str(source.path):
        origin["source"] = source.name
    if renaming is not None:
        origin["map"] = renaming.model_dump_json(exclude_defaults=True)
    return origin


def _left_aside(choice: Choice, places: Sequence[Picked]) -> tuple[str, ...]:
    return tuple(picked.place for picked in places if picked.place != choice.picked.place)


def _network_facts(fit: Fit, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a `Conversion` that are about the network."""
    full = build_meta(spec, deep_supervision=len(spec.outputs) > 1).state_dict()
    return {
        "model": fit.declared.reference,
        "same": fit.same,
        "assumed": assumed(spec),
        "renamed": fit.match.renamed,
        "filled": fit.match.filled,
        "input_channels": spec.input.channels,
        "output_channels": spec.outputs[0].channels,
        "tensors": len(tensors),
        "parameters": count_parameters(build_meta(spec, deep_supervision=fit.deep_supervision)),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        "absent": tuple(key for key in full if key not in tensors),
    }


def _tensors_of(fit: Fit, picked: Picked, *, source: str) -> dict[str, Tensor]:
    """Return every tensor of the network, in its own memory; floating types are kept."""
    filled = build(fit.spec, deep_supervision=False).state_dict() if fit.match.filled else {}
    state = build_meta(fit.spec, deep_supervision=fit.deep_supervision).state_dict()
    found = fit.match.keys
    tensors = {key: picked.tensors[found[key]] if key in found else filled[key] for key in state}
    for key, tensor in tensors.items():
        wanted = state[key].dtype
        if tensor.dtype != wanted and not {tensor.dtype, wanted} <= _FLOATS:
            raise WeightsError(
                f"{source}: {key} is of type {tensor.dtype}, in {fit.spec.name} of {wanted}, save it as that."
            )
    # By the class: a tensor out of a pickle can carry attributes of any name.
    copies = {
        key: Tensor.detach(tensor).clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
    }
    for key, tensor in copies.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"{source}: {key} holds values that are not finite, its training has diverged.")
    return copies


def _spec_of(fit: Fit, source: Source) -> ModelSpec:
    """Return the complete spec of the network; with other channels it is not the released one, and says so."""
    spec = fit.spec.model_copy(update={"weights": {}, "expect": fit.spec.expect or measure_expectation(fit.spec)})
    if fit.spec is fit.declared:
        return spec
    channels = f"{spec.input.channels} input and {spec.outputs[0].channels} output channels"
    file = Path(source.name).name[:200]
    change = f"{fit.declared.name} {fit.declared.version} with {channels}, those of the checkpoint {file}."
    return spec.model_copy(update={"version": UNRELEASED, "changes": {UNRELEASED: change}})


def _check_place(output: Path) -> None:
    refuse_existing(output)
    if not output.absolute().parent.is_dir():
        raise OutputError(f"{output.parent}: there is no such folder, make it first.")


def _write(output: Path, tensors: Mapping[str, Tensor], spec: ModelSpec, *, metadata: dict[str, str]) -> None:
    """Write the folder beside its place, and put it there when it is complete."""
    with whole_folder(output) as partial:
        save_tensors(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt", **metadata})
        write_spec(spec, path=partial / SPEC_FILE)
        write_sums(partial, (SPEC_FILE, WEIGHTS_FILE))
