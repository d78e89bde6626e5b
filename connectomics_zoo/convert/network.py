"""Finds the network that a state dict is of: which model, under which prefix, with how many channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from connectomics_zoo import catalog
from connectomics_zoo.errors import WeightsError, ZooError
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.identity import is_same_function
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model

_SHOWN = 3

_MAX_PREFIXES = 8
"""Wrappers around one network."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fit:
    """A network that has exactly the tensors of a state dict."""

    declared: ModelSpec
    """The model."""
    spec: ModelSpec
    """The same, with the channels that were found."""
    deep_supervision: bool
    """Whether the heads of the coarser scales are there."""
    prefix: str
    """What stands before every key in the state dict, and not in the network."""
    same: tuple[str, ...] = ()
    """Other models of the catalogues that are the same network."""


def find_network(tensors: Mapping[str, Tensor], *, prefixes: Sequence[str], source: str) -> Fit:
    """Return the one model of the catalogues that has exactly `tensors`, but for the number of channels.

    Raises:
        WeightsError: there is none, or there are several that compute different things.
    """
    stages = list(_stages(tensors, prefixes))
    references = [f"{entry.catalog.name}:{entry.name}" for entry in catalog.entries("models") if entry.version is None]
    specs = [get_spec(reference) for reference in references]
    fits = [fit for spec in specs if (fit := _fit(spec, stages)) is not None]
    if not fits:
        raise WeightsError(f"{source}: its tensors are of no model here: {_nearest(specs, stages)}.")
    fits = [fit for fit in fits if fit.spec is fit.declared] or fits  # those with the declared channels come first
    if any(not is_same_function(fits[0].declared, fit.declared) for fit in fits):
        names = ", ".join(fit.spec.name for fit in fits)
        raise WeightsError(f"{source}: its tensors fit {names}, which compute different things: say which by --model.")
    return replace(fits[0], same=tuple(fit.spec.name for fit in fits[1:]))


def fit_network(spec: ModelSpec, tensors: Mapping[str, Tensor], *, prefixes: Sequence[str], source: str) -> Fit:
    """Return how `tensors` are those of `spec`'s network, whose channels may be other ones.

    Raises:
        WeightsError: they are not.
    """
    stages = list(_stages(tensors, prefixes))
    fit = _fit(spec, stages)
    if fit is None:
        raise WeightsError(f"{source}: its tensors are not those of {spec.name}: {_nearest([spec], stages)}.")
    return fit


def _stages(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> Iterator[tuple[str, Shapes]]:
    """Yield what was removed and the shapes by key, as long as all keys have a prefix; how far, the network decides.

    MONAI's UNet, for one, calls all its layers `model.…` itself.
    """
    prefix = ""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    yield prefix, shapes
    for _ in range(_MAX_PREFIXES):
        shared = next((item for item in prefixes if all(key.startswith(item) for key in shapes)), None)
        if shared is None:
            return
        prefix += shared
        shapes = {key.removeprefix(shared): shape for key, shape in shapes.items()}
        yield prefix, shapes


def _fit(spec: ModelSpec, stages: Sequence[tuple[str, Shapes]]) -> Fit | None:
    for deep_supervision in (True, False) if len(spec.outputs) > 1 else (False,):
        declared = _shapes(spec, deep_supervision=deep_supervision)
        for prefix, shapes in stages:
            if shapes.keys() == declared.keys():
                changed = _with_channels_of(spec, shapes, declared, deep_supervision=deep_supervision)
                if changed is not None:
                    return Fit(spec, changed, deep_supervision, prefix)
    return None


def _shapes(spec: ModelSpec, *, deep_supervision: bool) -> Shapes:
    state = build_meta(spec, deep_supervision=deep_supervision).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _with_channels_of(spec: ModelSpec, shapes: Shapes, declared: Shapes, *, deep_supervision: bool) -> ModelSpec | None:
    """Return `spec` with the channels with which its network has the `shapes`, None where it never has them."""
    if shapes == declared:
        return spec
    inputs, outputs = spec.input.channels, spec.outputs[0].channels
    wider_input = _shapes(spec.with_channels(inputs=2 * inputs), deep_supervision=deep_supervision)
    wider_output = _shapes(spec.with_channels(outputs=2 * outputs), deep_supervision=deep_supervision)
    try:
        changed = resolve_model(
            spec,
            in_channels=_solve(inputs, shapes, declared, wider_input),
            out_channels=_solve(outputs, shapes, declared, wider_output),
        )
        return changed if _shapes(changed, deep_supervision=deep_supervision) == shapes else None
    except ZooError:  # not a number of channels that the network can have
        return None


def _solve(channels: int, shapes: Shapes, declared: Shapes, wider: Shapes) -> int:
    """Return for how many channels the `shapes` are, which are as `declared` for `channels`, `wider` for twice that."""
    for key, shape in declared.items():
        for size, doubled, found in zip(shape, wider.get(key, shape), shapes[key], strict=False):
            if doubled != size:
                return channels + (found - size) * channels // (doubled - size)
    return channels


def _nearest(specs: Sequence[ModelSpec], stages: Sequence[tuple[str, Shapes]]) -> str:
    """Say which model shares the most keys, and what differs."""

    def shared(item: tuple[ModelSpec, Shapes, Shapes]) -> tuple[float, int]:
        _, declared, found = item
        equal = sum(declared.get(key) == shape for key, shape in found.items())
        return len(declared.keys() & found.keys()) / len(declared.keys() | found.keys()), equal

    pairs = [
        (spec, _shapes(spec, deep_supervision=heads), found)
        for spec in specs
        for heads in {len(spec.outputs) > 1, False}
        for _, found in stages
    ]
    spec, declared, found = max(pairs, key=shared)
    if not declared.keys() & found.keys():
        return f"no key is one of theirs ({_few(found)})"
    parts = []
    for label, keys in (
        ("missing", declared.keys() - found.keys()),
        ("unknown", found.keys() - declared.keys()),
        ("of another shape", {key for key in declared.keys() & found.keys() if declared[key] != found[key]}),
    ):
        if keys:
            parts.append(f"{len(keys)} {label} ({_few(sorted(keys))})")
    return f"of {spec.name} there are {', '.join(parts)}"


def _few(keys: Mapping[str, object] | Sequence[str]) -> str:
    shown = ", ".join(islice(keys, _SHOWN))
    return f"{shown}, …" if len(keys) > _SHOWN else shown
