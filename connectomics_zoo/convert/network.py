"""Finds how tensors are those of a model: under which prefix, with how many channels, with which heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor

from connectomics_zoo.convert.key_map import KeyMap
from connectomics_zoo.convert.pick import Picked
from connectomics_zoo.errors import ZooError
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.builder import untold_fields
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.keys import KeyMatch, match_keys

_SHOWN = 3

Shapes = Mapping[str, tuple[int, ...]]

_KNOWN_SHAPES: dict[tuple[str, bool], Shapes] = {}
"""Those of networks that were built already: every model is asked for every place of a checkpoint where tensors lie."""


@dataclass(frozen=True)
class Fit:
    """A network that has exactly the tensors of a state dict, under a prefix."""

    declared: ModelSpec
    """The model."""
    spec: ModelSpec
    """The same, with the channels that were found."""
    deep_supervision: bool
    """Whether the heads of the coarser scales are there."""
    match: KeyMatch
    """Which key of the state dict is which of the network."""
    same: tuple[str, ...] = ()
    """Other models of the catalogues that are the same network."""


def find_fits(spec: ModelSpec, picked: Picked, key_map: KeyMap) -> list[Fit]:
    """Return how the tensors of `picked` are those of `spec`'s network, whose channels may be other ones.

    There are several where the network is there more than once, and none where it is not there as a whole.
    """
    fits: dict[str, Fit] = {}
    for deep_supervision in _heads(spec):
        declared = _shapes(spec, deep_supervision=deep_supervision)
        for match in _matches(spec, declared, picked, key_map):
            if not match.complete or match.prefix in fits:
                continue
            # Inert tensors that are absent do not follow the channels.
            shapes = {
                key: tuple(picked.tensors[match.keys[key]].shape) if key in match.keys else shape
                for key, shape in declared.items()
            }
            changed = _with_channels_of(spec, shapes, declared, deep_supervision=deep_supervision)
            if changed is not None:
                fits[match.prefix] = Fit(spec, changed, deep_supervision, match)
    return list(fits.values())


def _heads(spec: ModelSpec) -> tuple[bool, ...]:
    return (True, False) if len(spec.outputs) > 1 else (False,)


def _matches(spec: ModelSpec, declared: Shapes, picked: Picked, key_map: KeyMap) -> list[KeyMatch]:
    """Match keys where the user wants them, and count what is no part of any network as outside."""
    matches = match_keys(declared.keys(), picked.tensors, builder=spec.builder)
    result = []
    for match in matches:
        dropped = tuple(key for key in match.unknown if key_map.drops(key.removeprefix(match.prefix)))
        unknown = tuple(key for key in match.unknown if key not in dropped)
        if match.prefix.startswith(picked.under):
            result.append(replace(match, unknown=unknown, outside=match.outside + dropped))
    return result


def _shapes(spec: ModelSpec, *, deep_supervision: bool) -> Shapes:
    identity = spec.model_dump_json(include={"builder", "arch", "input", "outputs"})
    known = _KNOWN_SHAPES.get((identity, deep_supervision))
    if known is None:
        state = build_meta(spec, deep_supervision=deep_supervision).state_dict()
        known = {key: tuple(tensor.shape) for key, tensor in state.items()}
        _KNOWN_SHAPES[identity, deep_supervision] = known
    return known


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


def assumed(spec: ModelSpec) -> dict[str, Any]:
    """Return what no tensor tells of the network of `spec`, with the values that the spec has."""
    values = spec.arch.model_dump(mode="json")
    return {field: values[field] for field in untold_fields(spec.builder, spec.arch)}


def describe_nearest(specs: Sequence[ModelSpec], candidates: Sequence[Picked], key_map: KeyMap) -> str:
    """Say which model shares the most keys with which of the candidates, and what differs."""
    pairs: list[tuple[tuple[float, int], ModelSpec, Shapes, Picked, KeyMatch]] = []
    for spec in specs:
        for deep_supervision in _heads(spec):
            declared = _shapes(spec, deep_supervision=deep_supervision)
            for picked in candidates:
                for match in _matches(spec, declared, picked, key_map)[:1]:
                    pairs.append((_likeness(match, declared, picked.tensors), spec, declared, picked, match))
    if not pairs or max(pair[0] for pair in pairs)[0] == 0:
        return f"no key is one of theirs ({_few(candidates[0].tensors)})"
    _, spec, declared, picked, match = max(pairs, key=lambda pair: pair[0])
    parts = []
    for label, keys in (
        ("missing", match.missing),
        ("unknown", match.unknown),
        ("of another shape", _misshapen(match, declared, picked.tensors)),
    ):
        if keys:
            parts.append(f"{len(keys)} {label} ({_few(sorted(keys))})")
    where = f", under the prefix {match.prefix!r}," if match.prefix else ""
    where += f" at {picked.place}" if len(candidates) > 1 and picked.place else ""
    return f"of {spec.name}{where} there are {', '.join(parts)}"


def _likeness(match: KeyMatch, declared: Shapes, tensors: Mapping[str, Tensor]) -> tuple[float, int]:
    """The share of common keys, and how many of them have the same shape."""
    union = len(match.keys) + len(match.missing) + len(match.unknown)
    return len(match.keys) / union, len(match.keys) - len(_misshapen(match, declared, tensors))


def _misshapen(match: KeyMatch, declared: Shapes, tensors: Mapping[str, Tensor]) -> list[str]:
    return [key for key, found in match.keys.items() if tuple(tensors[found].shape) != declared[key]]


def _few(keys: Mapping[str, object] | Sequence[str]) -> str:
    shown = ", ".join(islice(keys, _SHOWN))
    return f"{shown}, …" if len(keys) > _SHOWN else shown
