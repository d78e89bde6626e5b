"""Overrides: `key=value` texts to a nested mapping, and such a mapping merged into a document or a model's spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.files.yaml import parse_yaml, parses_to_other_type
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model

MODEL_KEYS = ("arch", "input.channels", "outputs.channels", "training", "summary", "family", "source")
"""What may be overridden in a model; everything else is derived, measured, or a matter of its file."""


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Return the nested mapping of `a.b.c=value` texts.

    A value that starts with `[`, `{`, `"` or `'` is YAML; otherwise it is a number, true, false or null where it
    reads as one, and the text as it stands where it does not: `vol.h5:raw`, `a=b` and `no` are strings.

    Raises:
        SpecError: an item has no `=`, no key or no value, a value is bad YAML, or two items contradict each other.
    """
    result: dict[str, Any] = {}
    values: set[str] = set()
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals:
            raise SpecError(f"{item!r} is no override, write key=value.")
        if not key or not all(key.split(".")):
            raise SpecError(f"{item!r} has an empty key, write key=value or part.key=value.")
        if key in values:
            raise SpecError(f"{key!r} is given twice, keep one.")
        values.add(key)
        *parents, last = key.split(".")
        target = result
        for depth, parent in enumerate(parents, start=1):
            if ".".join(parents[:depth]) in values:
                raise _contradiction(".".join(parents[:depth]), key)
            target = target.setdefault(parent, {})
        if last in target:
            raise _contradiction(key, next(other for other in values if other.startswith(key + ".")))
        target[last] = _parse_value(key, text)
    return result


def _contradiction(whole: str, part: str) -> SpecError:
    return SpecError(f"{whole!r} and {part!r} are both given, and one is a part of the other: keep one.")


def _parse_value(key: str, text: str) -> Any:
    text = text.strip()
    if not text:
        raise SpecError(f"{key}= has no value, write {key}=null for nothing or {key}='' for an empty text.")
    if text[0] in "[{\"'" or parses_to_other_type(text):
        return parse_yaml(text, source=f"{key}={text}")
    return text


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged in, deeply; neither is modified.

    Lists are replaced whole. A mapping on a list addresses elements by their index (`data.train.0.image`; the index
    after the last one appends); any other mapping on a list of at most one element is merged into that element.

    Raises:
        SpecError: an index does not exist, a list has several elements and none is named, or a plain value would
            have to hold keys.
    """
    return _merge_mapping(base, changes, path="")


def _merge_mapping(base: Mapping[str, Any], changes: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    result = dict(base)
    for key, change in changes.items():
        result[key] = _merge_value(result.get(key), change, path=f"{path}.{key}" if path else key)
    return result


def _merge_value(base: Any, change: Any, *, path: str) -> Any:
    if not isinstance(change, Mapping):
        return change
    if base is None:
        return _merge_list([], change, path=path) if _is_indexed(change) else _merge_mapping({}, change, path=path)
    if isinstance(base, Mapping):
        return _merge_mapping(base, change, path=path)
    if isinstance(base, list | tuple):
        return _merge_list(list(base), change, path=path)
    key = next(iter(change), "")
    raise SpecError(f"{path}.{key}: {path} is {base!r}, which has no parts, write {path}=value.")


def _merge_list(base: list[Any], change: Mapping[str, Any], *, path: str) -> list[Any]:
    if not _is_indexed(change):
        if len(base) > 1:
            key = next(iter(change), "")
            raise SpecError(f"{path}.{key}: {path} has {len(base)} elements, say which: {path}.0.{key}=value.")
        return [_merge_value(base[0] if base else {}, change, path=path)]
    for key in sorted(change, key=int):
        index = int(key)
        if index > len(base):
            raise SpecError(f"{path}.{key}: {path} has {len(base)} element(s), the next index is {len(base)}.")
        if index == len(base):
            base.append(None)
        base[index] = _merge_value(base[index], change[key], path=f"{path}.{key}")
    return base


def _is_indexed(change: Mapping[str, Any]) -> bool:
    return bool(change) and all(key.isascii() and key.isdigit() and len(key) <= 6 for key in change)


def override_model(ref: str | Path | ModelSpec, changes: Mapping[str, Any]) -> ModelSpec:
    """Return the model's spec with `changes`: complete, and without measurements where its network is another one.

    Args:
        ref: a reference or a spec.
        changes: nested, under `MODEL_KEYS`; `outputs.channels` is the number that all outputs have.

    Raises:
        UnknownNameError: `arch` has a key that the builder does not have.
        SpecError: another key is unknown or fixed, or a value is not allowed.
    """
    spec = get_spec(ref)
    for key in _paths(changes):
        if not any(key == known or key.startswith(known + ".") for known in MODEL_KEYS):
            if key.partition(".")[0] in ModelSpec.model_fields:
                raise SpecError(f"{key} is fixed in {spec.name}, only {', '.join(MODEL_KEYS)} can be changed.")
            raise UnknownNameError(f"unknown key {key} for {spec.name}: {nearest(key, MODEL_KEYS)}")
    arch = changes.get("arch", {})
    if not isinstance(arch, Mapping):
        raise SpecError(f"arch={arch!r} for {spec.name}: it is a mapping, write arch.KEY=value.")
    declared = spec.arch.model_dump(mode="json")
    changed = resolve_model(
        spec,
        in_channels=_channels(changes, "input"),
        out_channels=_channels(changes, "outputs"),
        arch={key: merge(declared, {key: value})[key] for key, value in arch.items()},
    )
    rest = {key: value for key, value in changes.items() if key not in ("arch", "input", "outputs")}
    if not rest:
        return changed
    return validate(ModelSpec, merge(changed.model_dump(mode="json"), rest), source=spec.name)


def _channels(changes: Mapping[str, Any], side: str) -> int | None:
    if side not in changes:
        return None
    channels = changes[side]["channels"]
    if type(channels) is not int or channels < 1:
        raise SpecError(f"{side}.channels is {channels!r}, it must be a whole number of at least 1.")
    return channels


def _paths(changes: Mapping[str, Any]) -> list[str]:
    """The dotted keys of the top two levels."""
    return [
        path
        for key, value in changes.items()
        for path in ([f"{key}.{part}" for part in value] if isinstance(value, Mapping) and value else [key])
    ]
