"""Picks out of a checkpoint what may be a network's tensors, where its format has them and wherever else they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from connectomics_zoo.convert.checkpoint import ForeignCheckpoint
from connectomics_zoo.convert.key_map import KeyMap, Place
from connectomics_zoo.errors import WeightsError

_MAX_TENSORS = 100_000

_MAX_KEY = 500
"""Characters in the name of a tensor."""

_MAX_DEPTH = 3
"""Keys on the way to tensors that no map knows of."""

_MAX_PLACES = 16

_AVERAGES = frozenset({"ema", "swa", "averaged", "average", "averages", "avg", "polyak", "emamodel", "modelema"})
"""Words in the names of averages over the training."""

_WORDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Picked:
    """The tensors in one place, which may be those of one network or hold several."""

    place: str
    """Where they lie: the keys on the way, such as `callbacks/EMAWeightsCallback/ema_state`."""
    averaged: bool
    """Whether they are averages over the training (EMA)."""
    tensors: dict[str, Tensor]
    """By key, with all prefixes."""
    rank: int
    """Which choice it is, 0 for the first one."""
    under: str = ""
    """What the keys must begin with, where the user said so."""
    copies: int = 0
    """How many tensors lay there once more under another name, and were left out."""


def recognise(checkpoint: ForeignCheckpoint, maps: Sequence[KeyMap], *, source: str) -> KeyMap:
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


def pick(checkpoint: ForeignCheckpoint, key_map: KeyMap, *, source: str) -> list[Picked]:
    """Return every place in `checkpoint` with what may be a network's tensors.

    Args:
        checkpoint: what was read.
        key_map: its format, which says what the first choice is.
        source: names the file in errors.

    Raises:
        WeightsError: there are none, or something else lies where they should.
    """
    known = _known_places(checkpoint, key_map, source=source)
    found = known + _other_places(checkpoint, known, rank=len(key_map.tensors) if _is_marked(key_map) else 0)
    if not found:
        raise WeightsError(
            f"{source}: no tensors where {key_map.name} has them; it has {_keys(checkpoint)}: save the network's state "
            "dict alone."
        )
    return found


def names_average(name: str) -> bool:
    """Whether `name`, of a place or a prefix, says that averages over the training (EMA) lie there."""
    return any(word.lower() in _AVERAGES for word in _WORDS.split(name))


def unread_averages(checkpoint: ForeignCheckpoint, found: Sequence[Picked]) -> tuple[str, ...]:
    """Return the keys at the top that speak of averages which are no state dict."""
    places = {picked.place.partition("/")[0] for picked in found}
    return tuple(
        key
        for key, value in checkpoint.content.items()
        if isinstance(key, str) and names_average(key) and isinstance(value, Mapping | list) and key not in places
    )


def _is_marked(key_map: KeyMap) -> bool:
    """Whether the format is known by its keys; a plain file's places are worth the same."""
    return any(mark.keys for mark in key_map.marks)


def _known_places(checkpoint: ForeignCheckpoint, key_map: KeyMap, *, source: str) -> list[Picked]:
    picked: dict[str, Picked] = {}
    for index, place in enumerate(key_map.tensors):
        found = _find(checkpoint.content, place)
        if found is None or found[0] in picked:
            continue
        path, state = found
        if not path and not all(isinstance(value, Tensor) for value in state.values()):
            continue  # the top of a checkpoint, whose tensors lie deeper
        check_state(state, source=f"{source}: {path or 'the top'}")
        averaged = place.averaged or names_average(path)
        picked[path] = Picked(path, averaged, dict(state), index if _is_marked(key_map) else 0)
    return list(picked.values())


def _other_places(checkpoint: ForeignCheckpoint, known: Sequence[Picked], *, rank: int) -> list[Picked]:
    taken = {picked.place for picked in known}
    found: list[Picked] = []
    for path, state in _states(checkpoint.content):
        if path not in taken and len(found) < _MAX_PLACES:
            found.append(Picked(path, names_average(path), dict(state), rank))
    return found


def _states(here: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield every mapping, not too deep, of names to plain tensors with a kernel or matrix among them."""
    for key, value in here.items():
        if not isinstance(key, str) or not key.isprintable() or not isinstance(value, Mapping):
            continue
        way = (*path, key)
        if any(isinstance(item, Tensor) and item.ndim > 1 for item in value.values()) and _is_state(value):
            yield "/".join(way), value
        elif len(way) < _MAX_DEPTH:
            yield from _states(value, way)


def _is_state(state: Mapping[Any, Any]) -> bool:
    try:
        check_state(state, source="")
    except WeightsError:
        return False
    return True


def _find(content: Mapping[Any, Any], place: Place) -> tuple[str, Mapping[Any, Any]] | None:
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


def pick_at(at: str, checkpoint: ForeignCheckpoint, found: Sequence[Picked], *, source: str) -> Picked:
    """Return the tensors at the place `at`, or those in a place whose names begin so.

    Args:
        at: the keys on the way with a slash between; its end may be what the tensors' names begin with.
        checkpoint: what was read.
        found: all places.
        source: names the file in errors.

    Raises:
        WeightsError: there are none, or something else lies there.
    """
    here: Any = checkpoint.content
    path: list[str] = []
    for part in at.strip("/").split("/"):
        if not isinstance(here, Mapping) or part not in here:
            break
        path.append(part)
        here = here[part]
    place, rest = "/".join(path), at.strip("/")[len("/".join(path)) :].strip("/")
    if not rest and isinstance(here, Mapping) and here:
        check_state(here, source=f"{source}: {place}")
        return Picked(place, names_average(place), dict(here), 0)
    under = rest.rstrip(".") + "."
    for picked in found:
        if picked.place.startswith(place) and any(key.startswith(under) for key in picked.tensors):
            return Picked(picked.place, picked.averaged, picked.tensors, 0, under)
    places = ", ".join(picked.place or "the top" for picked in found[:5]) or "nowhere"
    raise WeightsError(f"{source}: nothing lies at {at!r}; tensors lie at {places}: give one of them to --at.")


def check_state(state: Mapping[Any, Any], *, source: str) -> None:
    """Refuse what is no state dict of plain tensors; nothing is computed, and no memory is touched.

    Raises:
        WeightsError: it is none.
    """
    if len(state) > _MAX_TENSORS:
        raise WeightsError(f"{source} has {len(state)} tensors, a network has at most {_MAX_TENSORS}.")
    for key in state:
        if not isinstance(key, str) or len(key) > _MAX_KEY or not key.isprintable():
            raise WeightsError(f"{source} has the key {repr(key)[:60]}, a state dict has names alone.")
    for key, value in state.items():
        if type(value) not in (Tensor, nn.Parameter):
            raise WeightsError(f"{source} holds {type(value).__name__} as {key!r}, a state dict has tensors alone.")
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise WeightsError(
                f"{source} holds a sparse, quantized or empty tensor as {key!r}, save it as a plain one."
            )


def _keys(checkpoint: ForeignCheckpoint) -> str:
    """The first keys at the top, as they read in a sentence."""
    shown = [repr(key) if len(repr(key)) < 60 else "…" for key in list(checkpoint.content)[:5]]
    return (", ".join(shown) + (", …" if len(checkpoint.content) > 5 else "")) or "nothing"
