"""Reads nnU-Net's plans, in a checkpoint or beside it: which network it has, and what else it was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.convert.pick import Picked
from connectomics_zoo.errors import SpecError, WeightsError
from connectomics_zoo.files.json_text import parse_json
from connectomics_zoo.files.yaml import MAX_BYTES
from connectomics_zoo.schema.builder import interface_of, plans_architecture, usable_builders
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.plans import PlannedNetwork, PlansArchitecture, PlansRequest
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import every_model, get_spec
from connectomics_zoo.specs.resolve import validate_arch

_PLANS, _DATASET = "plans.json", "dataset.json"

_MOST_INHERITED = 10


@dataclass(frozen=True)
class Plans:
    """What nnU-Net planned for a network, of which nothing has been checked but that it is plain data."""

    configuration: str
    """Name of the configuration, such as `3d_fullres`."""
    values: Mapping[str, Any]
    """The configuration, with what it inherits."""
    whole: Mapping[str, Any]
    """All plans."""
    dataset: Mapping[str, Any]
    """`dataset.json`; empty where it is not at hand."""
    trainer: str
    """Class of the trainer."""
    mirrored: tuple[int, ...] | None
    """Axes along which predictions were mirrored, None where the checkpoint does not say."""

    @property
    def name(self) -> str:
        """The dataset's name, as far as it is one."""
        name = self.whole.get("dataset_name")
        return name if isinstance(name, str) else "dataset"


def read_plans(content: Mapping[str, Any], file: Path) -> Plans | None:
    """Return the plans in the checkpoint `content`, or in the folder of `file` or the one above; None where none are.

    Raises:
        SpecError: they lack the configuration of the checkpoint, or are no plans.
    """
    arguments = content.get("init_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    whole = arguments.get("plans")
    if not isinstance(whole, Mapping) or "configurations" not in whole:
        whole = _beside(file, _PLANS)
    if whole is None:
        return None
    dataset = arguments.get("dataset_json")
    if not isinstance(dataset, Mapping):
        dataset = _beside(file, _DATASET) or {}
    configuration = arguments.get("configuration")
    if not isinstance(configuration, str):
        # A results folder is called TRAINER__PLANS__CONFIGURATION.
        configuration = file.absolute().parent.parent.name.rpartition("__")[2]
    axes = content.get("inference_allowed_mirroring_axes")
    mirrored = tuple(item for item in axes if type(item) is int) if isinstance(axes, list | tuple) else None
    trainer = content.get("trainer_name")
    return Plans(
        configuration=configuration,
        values=_inherited(whole, configuration),
        whole=whole,
        dataset=dataset,
        trainer=trainer if isinstance(trainer, str) else "nnUNetTrainer",
        mirrored=mirrored,
    )


@dataclass(frozen=True)
class Planned:
    """A network as its plans have it."""

    spec: ModelSpec
    """Its spec, not measured."""
    plans: Plans
    same: tuple[str, ...]
    """Models of the catalogues that are the same network, but for its channels."""


def planned_network(content: Mapping[str, Any], candidates: Sequence[Picked], *, file: Path) -> Planned | None:
    """Return the network of nnU-Net's own that lies in `candidates`; None where another one does.

    Args:
        content: the checkpoint.
        candidates: its places with tensors.
        file: the checkpoint's file, beside which its plans may lie.

    Raises:
        WeightsError: there are no plans.
        SpecError: they ask for what no model here is.
    """
    for builder, architecture in _architectures():
        for picked in candidates:
            shapes = _shapes_at(architecture.marker, picked)
            if shapes is not None:
                plans = read_plans(content, file)
                if plans is None:
                    raise WeightsError(
                        f"{file}: it is a network of nnU-Net's own and its plans are neither in the checkpoint "
                        f"(init_args) nor beside it ({_PLANS} in its folder or the one above): put them there, or give "
                        "the spec of the network by --model."
                    )
                request = _request(plans, shapes)
                spec = _spec(builder, architecture.translate(request), plans, request.patch_size, file=file)
                return Planned(spec, plans, _same(spec))
    return None


def _same(spec: ModelSpec) -> tuple[str, ...]:
    return tuple(
        other.name for other in every_model().values() if (other.builder, other.arch) == (spec.builder, spec.arch)
    )


def _architectures() -> Iterator[tuple[str, PlansArchitecture]]:
    for name in usable_builders():
        architecture = plans_architecture(name)
        if architecture is not None:
            yield name, architecture


def _shapes_at(marker: str, picked: Picked) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of the tensors that lie beside `marker`, by their names without prefix; None without it."""
    for key in picked.tensors:
        if key == marker or key.endswith(f".{marker}"):
            prefix = key.removesuffix(marker)
            return {
                name.removeprefix(prefix): tuple(tensor.shape)
                for name, tensor in picked.tensors.items()
                if name.startswith(prefix)
            }
    return None


def _beside(file: Path, name: str) -> dict[str, Any] | None:
    """Return the JSON file `name` in the folder of `file` or the one above; None where there is none."""
    folder = file.absolute().parent
    for path in (folder / name, folder.parent / name):
        if path.is_file():
            if path.stat().st_size > MAX_BYTES:
                raise SpecError(f"{path}: larger than the {MAX_BYTES} bytes that it may have, is it nnU-Net's?")
            try:
                return parse_json(path.read_text(encoding="utf-8"), source=str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise SpecError(f"{path}: cannot be read ({error}), check the file.") from None
    return None


def _inherited(whole: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return a configuration of plans with what it inherits from others."""
    configurations = whole.get("configurations")
    result: dict[str, Any] = {}
    name: Any = configuration
    for _ in range(_MOST_INHERITED):
        found = configurations.get(name) if isinstance(configurations, Mapping) and isinstance(name, str) else None
        if not isinstance(found, Mapping):
            raise SpecError(f"plans: have no configuration {str(name)[:80]!r}, which the checkpoint is of.")
        result = {**found, **result}
        name = found.get("inherits_from")
        if name is None:
            return result
    raise SpecError(f"plans: the configuration {configuration!r} inherits from itself, mend it.")


def _request(plans: Plans, shapes: Mapping[str, tuple[int, ...]]) -> PlansRequest:
    patch = plans.values.get("patch_size")
    if not isinstance(patch, list | tuple) or not patch or any(type(edge) is not int for edge in patch):
        raise SpecError(f"plans: patch_size is {str(patch)[:80]}, it must be a list of whole numbers.")
    return PlansRequest(plans.values, tuple(patch), shapes)


def _spec(builder: str, planned: PlannedNetwork, plans: Plans, patch: tuple[int, ...], *, file: Path) -> ModelSpec:
    base = get_spec(planned.model)
    config = validate_arch(builder, planned.arch, source="plans: arch_kwargs")
    interface = interface_of(builder, config)
    training = {**base.training.model_dump(mode="json"), "patch_size": list(patch)}
    batch = plans.values.get("batch_size")
    if type(batch) is int and batch > 0:
        training["batch_size"] = batch
    document = {
        "schema_version": 1,
        "name": _name(plans, base.family),
        "version": "0.0.0",
        "family": base.family,
        "summary": f"The network of nnU-Net's configuration {plans.configuration[:60]} for {plans.name[:80]}.",
        "builder": builder,
        "arch": config.model_dump(mode="json"),
        "input": {
            "channels": planned.in_channels,
            "axes": interface.axes,
            "size": {"minimum": interface.minimum, "step": interface.step},
        },
        "outputs": [{**output._asdict(), "channels": planned.out_channels} for output in interface.outputs],
        "expect": None,
        "training": training,
        "source": base.source.model_dump(mode="json"),
        "changes": {"0.0.0": f"Made from the plans of the checkpoint {file.name[:200]}."},
    }
    return validate(ModelSpec, document, source="plans")


def _name(plans: Plans, family: str) -> str:
    """Return a legal name: of the dataset and the configuration."""
    text = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{family}-{plans.name}-{plans.configuration}")
    return text[:64].rstrip("-")
