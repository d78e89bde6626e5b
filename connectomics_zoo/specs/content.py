"""What a spec states, kept as plain data, and a spec of today compared with it.

Kept content is complete, defaults included, so that a changed default is found like a changed value. A field that a
type gained since, and that has its default, is no change: what was kept stays valid when a builder learns something.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from connectomics_zoo.schema.model import ModelSpec


class Change(NamedTuple):
    """A field of a spec that is not what was kept."""

    path: str
    """The field, such as `outputs[1].stride`."""
    now: Any
    """What the spec has; None where it has no such field."""
    kept: Any
    """What was kept; None where there was nothing."""


def content_of(spec: ModelSpec, fields: Iterable[str]) -> dict[str, Any]:
    """Return the `fields` of a spec, complete with defaults, as plain data."""
    document = spec.model_dump(mode="json")
    return {field: document[field] for field in fields}


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def changes_of(spec: ModelSpec, kept: Mapping[str, Any], *, fields: Iterable[str]) -> list[Change]:
    """Return where the `fields` of a spec differ from the content that was kept of them."""
    return [change for field in fields for change in _changes(getattr(spec, field), kept.get(field), field)]


def _changes(value: Any, kept: Any, path: str) -> list[Change]:
    if isinstance(value, BaseModel) and isinstance(kept, dict):
        found = []
        for name, field in type(value).model_fields.items():
            current = getattr(value, name)
            if name in kept:
                found += _changes(current, kept[name], f"{path}.{name}")
            elif field.is_required() or current != field.get_default(call_default_factory=True):
                found.append(Change(f"{path}.{name}", plain(current), None))
        gone = [name for name in kept if name not in type(value).model_fields]
        return found + [Change(f"{path}.{name}", None, kept[name]) for name in gone]
    if isinstance(value, dict) and isinstance(kept, dict):
        keys = [*value, *(key for key in kept if key not in value)]
        pairs = [(f"{path}.{key}", value.get(key), kept.get(key)) for key in keys]
        return [change for name, mine, theirs in pairs for change in _changes(mine, theirs, name)]
    if isinstance(value, tuple) and isinstance(kept, list) and _holds_nodes(value) and len(value) == len(kept):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(value, kept, strict=True))]
        return [change for name, mine, theirs in pairs for change in _changes(mine, theirs, name)]
    return [] if plain(value) == kept else [Change(path, plain(value), kept)]


def _holds_nodes(value: tuple[Any, ...]) -> bool:
    return any(isinstance(item, BaseModel) for item in value)


def plain(value: Any) -> Any:
    """Return `value` of a spec as plain data, as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
