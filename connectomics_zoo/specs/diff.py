"""Compares two specs field by field, and says what the differences mean for existing weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import RunSpec, Spec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.identity import is_same_function, may_change_function

Effect = Literal["cosmetic", "weights-compatible", "breaking"]
"""`cosmetic`: words only. `weights-compatible`: the same state dict, input, outputs and function, trained or evaluated
otherwise. `breaking`: weights of one do not fit the other, or mean something else in it."""

EFFECTS: tuple[Effect, ...] = ("cosmetic", "weights-compatible", "breaking")

_WORDS = {"name", "version", "family", "summary", "source", "changes", "schema_version", "kind", "versions"}
_DATA_WORDS = {"license", "attribution"}


class Difference(NamedTuple):
    """One field that differs; a side without the field has None."""

    path: str
    change: Literal["changed", "added", "removed"]
    before: Any
    after: Any
    effect: Effect


class Comparison(NamedTuple):
    """What differs between two specs, and the gravest effect; None where nothing differs."""

    effect: Effect | None
    differences: list[Difference]


def diff_specs(first: Spec, *, second: Spec) -> Comparison:
    """Return every field that differs from `first` to `second`.

    A run and a model are compared as two models. Models are judged by what was measured, see `is_same_function`.

    Raises:
        SpecError: the two are not of one kind.
    """
    if {type(first), type(second)} == {RunSpec, ModelSpec}:
        first, second = _model(first) or first, _model(second) or second
    if type(first) is not type(second):
        raise SpecError(
            f"{first.name!r} is a {_kind(first)} and {second.name!r} a {_kind(second)}, compare two of a kind."
        )
    models = (_model(first), _model(second))
    same_network = models[0] is None or models[1] is None or is_same_function(models[0], models[1])
    before, after = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    differences = []
    for path in [*before, *(path for path in after if path not in before)]:
        if path in before and path in after and _equal(before[path], after[path]):
            continue
        effect = _effect(path.split("."), kind=_kind(first), same_network=same_network)
        change: Literal["changed", "added", "removed"] = (
            "changed" if path in before and path in after else "added" if path in after else "removed"
        )
        differences.append(Difference(path, change, before.get(path), after.get(path), effect))
    gravest = max((difference.effect for difference in differences), key=EFFECTS.index, default=None)
    return Comparison(gravest, differences)


def _model(spec: Spec) -> ModelSpec | None:
    if isinstance(spec, RunSpec):
        return spec.model
    return spec if isinstance(spec, ModelSpec) else None


def _kind(spec: Spec) -> str:
    return type(spec).__name__.removesuffix("Spec").lower()


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a nested document by path: `arch.kernel_size`, `outputs.ds_1.stride`.

    Elements of a list of mappings go by their `name` where every one has its own, and the list itself stands for
    the order of the names; elsewhere they go by index (`data.train.0.image`). A list of plain values is one value.
    """
    return dict(_leaves("", document))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        parts = dict(value)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        names = [str(item.get("name")) for item in value]
        if all("name" in item for item in value) and len(set(names)) == len(names):
            yield path, names
            rest = [{key: part for key, part in item.items() if key != "name"} for item in value]
            parts = dict(zip(names, rest, strict=True))
        else:
            parts = {str(index): item for index, item in enumerate(value)}
    else:
        yield path, value
        return
    for key, part in parts.items():
        yield from _leaves(f"{path}.{key}" if path else key, part)


def _equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _effect(path: list[str], *, kind: str, same_network: bool) -> Effect:
    """Return what a difference in the field at `path` means."""
    if kind == "run" and path[0] in ("model", "task"):
        return _effect(path[1:], kind=path[0], same_network=same_network)
    if path[0] in _WORDS or (path[0] == "data" and path[-1] in _DATA_WORDS):
        return "cosmetic"
    if kind == "model":
        return "weights-compatible" if same_network or not may_change_function(path) else "breaking"
    if kind == "task":
        return "breaking" if path[0] == "channels" and "losses" not in path else "weights-compatible"
    return "breaking" if kind == "experiment" and path[0] in ("model", "task", "arch") else "weights-compatible"
