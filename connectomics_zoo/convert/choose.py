"""Chooses the network to convert among those that a checkpoint may hold; what it does not tell is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from connectomics_zoo.convert.key_map import KeyMap
from connectomics_zoo.convert.network import Fit, assumed, describe_nearest, find_fits
from connectomics_zoo.convert.pick import Picked, names_average
from connectomics_zoo.errors import WeightsError
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.identity import is_same_function
from connectomics_zoo.specs.lookup import every_model


@dataclass(frozen=True)
class Choice:
    """A network, and the tensors that are its."""

    picked: Picked
    """Where they lie."""
    fit: Fit
    """How they are the network's."""

    @property
    def averaged(self) -> bool:
        """Whether they are averages over the training: their place, their prefix or PyTorch's counter says so."""
        match = self.fit.match
        counted = any(key.rpartition(".")[2] == "n_averaged" for key in match.outside)
        return self.picked.averaged or names_average(match.prefix) or counted

    @property
    def label(self) -> str:
        """The place as `--at` takes it."""
        return "/".join(part for part in (self.picked.place, self.fit.match.prefix.rstrip(".")) if part)


def choose(
    candidates: Sequence[Picked],
    key_map: KeyMap,
    *,
    declared: ModelSpec | None,
    averaged: bool | None,
    source: str,
) -> Choice:
    """Return the one network that the tensors of `candidates` are of.

    Args:
        candidates: the places with tensors; at least one.
        key_map: the format of the checkpoint.
        declared: the model that it must be; by default, the one of the catalogues that has exactly these tensors.
        averaged: True for averages over the training (EMA), False for its last state, None for averages if there are.
        source: names the file in errors.

    Raises:
        WeightsError: there is none, there are several, or the tensors do not tell all of it and no model is given.
    """
    specs = [declared] if declared is not None else list(every_model().values())
    choices = [
        Choice(picked, fit) for picked in candidates for spec in specs for fit in find_fits(spec, picked, key_map)
    ]
    if not choices:
        raise _no_fit(specs, candidates, key_map, declared=declared, source=source)
    choices = _one_place(_of_kind(choices, candidates, averaged=averaged, source=source), source=source)
    return choices[0] if declared is not None else _one_model(choices, key_map, source=source)


def _no_fit(
    specs: Sequence[ModelSpec],
    candidates: Sequence[Picked],
    key_map: KeyMap,
    *,
    declared: ModelSpec | None,
    source: str,
) -> WeightsError:
    """Return the error where no model has the tensors: what network the format says it is, or the nearest model."""
    for other in key_map.other_networks:
        if any(_has(picked, other.key) for picked in candidates):
            return WeightsError(f"{source}: {other.network}.")
    which = "are of no model here" if declared is None else f"are not those of {declared.name}"
    nearest = describe_nearest(specs, candidates, key_map)
    places = ", ".join(picked.place for picked in candidates if picked.place)
    elsewhere = f", or say by --at which of {places}" if len(candidates) > 1 else ""
    return WeightsError(
        f"{source}: its tensors {which}: {nearest}; give the spec of their network by --model{elsewhere}."
    )


def _has(picked: Picked, pattern: str) -> bool:
    return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"*.{pattern}") for key in picked.tensors)


def _of_kind(
    choices: Sequence[Choice], candidates: Sequence[Picked], *, averaged: bool | None, source: str
) -> list[Choice]:
    """Return the averages or the last state, as it is asked for."""
    averages = [choice for choice in choices if choice.averaged]
    last = [choice for choice in choices if not choice.averaged]
    if averaged is None:
        return averages or last
    if averaged and not averages:
        unfit = [picked.place for picked in candidates if picked.averaged]
        if unfit:
            raise WeightsError(
                f"{source}: its averaged (EMA) weights at {unfit[0]} are not the whole network, convert it without "
                "--ema."
            )
        raise WeightsError(f"{source}: has no averaged (EMA) weights, convert it without --ema.")
    if not averaged and not last:
        raise WeightsError(f"{source}: has averaged (EMA) weights alone, convert it without --no-ema.")
    return averages if averaged else last


def _one_place(choices: Sequence[Choice], *, source: str) -> list[Choice]:
    """Return the choices in the one place where the network lies; copies of it are one."""
    best = min(choice.picked.rank for choice in choices)
    choices = [choice for choice in choices if choice.picked.rank == best]
    by_label: dict[str, list[Choice]] = {}
    for choice in choices:
        by_label.setdefault(choice.label, []).append(choice)
    first, *others = by_label.values()
    if any(not _equal(first[0], other[0]) for other in others):
        labels = list(by_label)
        raise WeightsError(
            f"{source}: holds {len(labels)} networks, at {' and '.join(labels)}, say which by --at {labels[0]}."
        )
    return first


def _equal(first: Choice, second: Choice) -> bool:
    """Whether two choices are of the same values, which they can be of one model only."""
    mine, theirs = first.fit.match.keys, second.fit.match.keys
    return mine.keys() == theirs.keys() and all(
        torch.equal(first.picked.tensors[key], second.picked.tensors[theirs[name]]) for name, key in mine.items()
    )


def _one_model(choices: Sequence[Choice], key_map: KeyMap, *, source: str) -> Choice:
    """Return the one model of those with these tensors, if nothing about it remains open."""
    exact = [choice for choice in choices if choice.fit.spec is choice.fit.declared]
    first, *others = exact or choices  # those with the declared channels come first
    declared = first.fit.declared
    if any(not is_same_function(declared, other.fit.declared) for other in others):
        names = ", ".join(choice.fit.declared.name for choice in (first, *others))
        raise WeightsError(f"{source}: its tensors fit {names}, which compute different things: say which by --model.")
    unsettled = {} if declared.builder in key_map.settled else assumed(declared)
    if unsettled:
        values = ", ".join(f"{field} {_plain(value)}" for field, value in unsettled.items())
        under = f" under the prefix {first.fit.match.prefix!r}" if first.fit.match.prefix else ""
        raise WeightsError(
            f"{source}: its tensors fit {declared.name}{under} but do not tell {', '.join(unsettled)}: say "
            f"--model {declared.name} if that is right ({values}), or give a spec that says otherwise (zoo new my-net "
            f"--from {declared.name} arch.{next(iter(unsettled))}=…) as --model."
        )
    return replace(first, fit=replace(first.fit, same=tuple(choice.fit.declared.name for choice in others)))


def _plain(value: object) -> str:
    """A value as YAML and overrides have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
