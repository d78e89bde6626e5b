"""Picks a network's tensors out of a checkpoint, by the key map of its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from connectomics_zoo.convert.checkpoint import Checkpoint
from connectomics_zoo.convert.key_map import KeyMap, Place
from connectomics_zoo.errors import WeightsError

_MAX_TENSORS = 100_000

_MAX_KEY = 500
"""Characters in the name of a tensor."""


@dataclass(frozen=True)
class Picked:
    """The tensors of one network."""

    place: str
    """Where they lie: the keys on the way, such as `callbacks/EMAWeightsCallback/ema_state`."""
    averaged: bool
    """Whether they are averages over the training (EMA)."""
    tensors: dict[str, Tensor]
    """By key, with all prefixes."""
    dropped: tuple[str, ...]
    """Keys that lay beside them and are no part of the network."""


def recognise(checkpoint: Checkpoint, maps: Sequence[KeyMap], *, source: str) -> KeyMap:
    """Return the format of `checkpoint`, the one of `maps` that knows most about it.

    Raises:
        WeightsError: there is none, or its pickle names what that format never does.
    """
    certainty = {item.name: item.recognises(checkpoint.content, checkpoint.pickled) for item in maps}
    best = max(maps, key=lambda item: certainty[item.name])
    if certainty[best.name] < 0:
        wanted = " or ".join(" and ".join(mark.keys) for mark in best.marks)
        raise WeightsError(f"{source}: no checkpoint of {best.name}, which has {wanted}; it has {_keys(checkpoint)}.")
    foreign = [name for name in checkpoint.pickled if not best.allows(name)]
    if foreign:
        raise WeightsError(f"{source}: its pickle names {foreign[0]!r}, which no checkpoint of {best.name} does.")
    return best


def pick(checkpoint: Checkpoint, key_map: KeyMap, *, averaged: bool | None, source: str) -> Picked:
    """Return the tensors of the network in `checkpoint`.

    Args:
        checkpoint: what was read.
        key_map: its format.
        averaged: True for averages over the training (EMA), False for its last state, None for averages if there are.
        source: names the file in errors.

    Raises:
        WeightsError: there are none, or something else lies where they should.
    """
    for place in key_map.tensors:
        if averaged is not None and place.averaged is not averaged:
            continue
        found = _at(checkpoint.content, place)
        if found is None:
            continue
        path, state = found
        if not path and not all(isinstance(value, Tensor) for value in state.values()):
            break  # the top of a checkpoint, whose tensors lie deeper
        _check_keys(state, source=f"{source}: {path or 'the top'}")
        tensors = {key: value for key, value in state.items() if not key_map.drops(key)}
        _check_tensors(tensors, source=f"{source}: {path or 'the top'}")
        _refuse_other_networks(tensors, key_map, source=source)
        return Picked(path, place.averaged, tensors, tuple(key for key in state if key not in tensors))
    if averaged:
        raise WeightsError(f"{source}: has no averaged (EMA) weights, convert it without --ema.")
    raise WeightsError(f"{source}: no tensors where {key_map.name} has them; it has {_keys(checkpoint)}.")


def _at(content: Mapping[Any, Any], place: Place) -> tuple[str, Mapping[Any, Any]] | None:
    """Return the mapping at `place`, and the keys on the way; None where there is none."""
    if place.beside is not None and place.beside not in content:
        return None
    path: list[str] = []
    here: Any = content
    for wanted in place.at:
        if not isinstance(here, Mapping):
            return None
        key = next(
            (key for key in here if isinstance(key, str) and key.isprintable() and fnmatchcase(key, wanted)), None
        )
        if key is None:
            return None
        path.append(key)
        here = here[key]
    return ("/".join(path), here) if isinstance(here, Mapping) and here else None


def _check_keys(state: Mapping[Any, Any], *, source: str) -> None:
    if len(state) > _MAX_TENSORS:
        raise WeightsError(f"{source} has {len(state)} tensors, a network has at most {_MAX_TENSORS}.")
    for key in state:
        if not isinstance(key, str) or len(key) > _MAX_KEY or not key.isprintable():
            raise WeightsError(f"{source} has the key {repr(key)[:60]}, a state dict has names alone.")


def _check_tensors(tensors: Mapping[str, Any], *, source: str) -> None:
    """Refuse what is no plain tensor; nothing is computed, and no memory is touched."""
    if not tensors:
        raise WeightsError(f"{source} has nothing but what is no part of a network.")
    for key, value in tensors.items():
        if type(value) not in (Tensor, nn.Parameter):
            raise WeightsError(f"{source} holds {type(value).__name__} as {key!r}, a state dict has tensors alone.")
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise WeightsError(
                f"{source} holds a sparse, quantized or empty tensor as {key!r}, save it as a plain one."
            )


def _refuse_other_networks(tensors: Mapping[str, Tensor], key_map: KeyMap, *, source: str) -> None:
    for other in key_map.other_networks:
        prefixes = ("", *key_map.prefixes)
        if any(fnmatchcase(key.removeprefix(prefix), other.key) for key in tensors for prefix in prefixes):
            raise WeightsError(f"{source}: {other.network}.")


def _keys(checkpoint: Checkpoint) -> str:
    """The first keys at the top, as they read in a sentence."""
    shown = [repr(key) if len(repr(key)) < 60 else "…" for key in list(checkpoint.content)[:5]]
    return (", ".join(shown) + (", …" if len(checkpoint.content) > 5 else "")) or "nothing"
