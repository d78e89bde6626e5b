"""A model with other channels or another architecture: its complete spec."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.schema.builder import BuilderConfig, Interface, builder_module, interface_of
from connectomics_zoo.schema.experiment import ExperimentSpec
from connectomics_zoo.schema.model import ModelSpec, SizeRule
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.identity import is_same_network
from connectomics_zoo.specs.lookup import get_spec


def check_arch(spec: ExperimentSpec) -> None:
    """Refuse changes of the architecture that the experiment's model does not take.

    Raises:
        UnknownNameError: there is no such model, or `arch` has a key that its builder does not have.
        SpecError: a value is not allowed.
    """
    if spec.arch:
        resolve_model(spec.model, arch=spec.arch)


def resolve_model(
    ref: str | Path | ModelSpec,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    arch: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Return the model's spec with overrides: complete, with the interface that the new architecture has.

    Where an override changes the network, what was measured of the declared one is dropped (`network.build`
    has what measures it anew). The recipe's patch size is raised to the next legal size where it is no longer legal.

    Raises:
        UnknownNameError: `arch` has a key that the builder does not have.
        SpecError: a value is not allowed.
    """
    spec = get_spec(ref)
    in_channels, out_channels = _channels("in_channels", in_channels), _channels("out_channels", out_channels)
    arch = {key: _plain(value) for key, value in (arch or {}).items()}
    if in_channels is None and out_channels is None and not arch:
        return spec
    document = spec.model_dump(mode="json")
    known = type(spec.arch).model_fields
    for key in arch:
        if key not in known:
            raise UnknownNameError(f"unknown key arch.{key} for {spec.name}: {nearest(key, known)}")
    config = validate_arch(spec.builder, spec.arch.override(arch), source=f"arch of {spec.name}")
    document["arch"] = config.model_dump(mode="json")
    interface = interface_of(spec.builder, config)
    channels = out_channels if out_channels is not None else spec.outputs[0].channels
    document["input"] = {
        "channels": in_channels if in_channels is not None else spec.input.channels,
        "axes": interface.axes,
        "size": {"minimum": interface.minimum, "step": interface.step},
        "context": interface.context,
    }
    document["outputs"] = [{**output._asdict(), "channels": channels} for output in interface.outputs]
    document["training"]["patch_size"] = _legal_patch(spec, interface)
    changed = validate(ModelSpec, document | {"expect": None}, source=spec.name)
    return spec if is_same_network(spec, changed) else changed


def _channels(name: str, value: object) -> int | None:
    """Return a number of channels, of whatever integer type, as a plain one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise SpecError(f"{name} is {value!r}, it must be a whole number of at least 1.")
    return int(value)


def _plain(value: Any) -> Any:
    """Return `value` with NumPy's numbers as Python's, which alone the schemas take."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _legal_patch(spec: ModelSpec, interface: Interface) -> tuple[int, ...]:
    rank = len(interface.minimum)
    patch = (interface.minimum + spec.training.patch_size)[-rank:]
    return SizeRule(minimum=interface.minimum, step=interface.step).round_up(patch)


def validate_arch(builder: str, arch: Mapping[str, Any], *, source: str) -> BuilderConfig:
    """Return `arch` as the configuration of `builder`, complete with its defaults."""
    return validate(builder_module(builder).Config, arch, source=source)
