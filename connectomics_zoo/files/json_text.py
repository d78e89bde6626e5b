"""Reads JSON that lies in a text of unknown origin, with the limits that specs in YAML have."""

from __future__ import annotations

import json
from typing import Any

from connectomics_zoo.errors import SpecError, reason
from connectomics_zoo.files.yaml import MAX_BYTES, MAX_DEPTH


def parse_json(text: str, *, source: str) -> dict[str, Any]:
    """Return the mapping in `text`; `source` names it in errors.

    Raises:
        SpecError: it is too long, no JSON or no mapping, is nested too deeply, or has a key twice or characters that no
            encoding takes.
    """
    if len(text) > MAX_BYTES:
        raise SpecError(f"{source}: longer than the {MAX_BYTES} characters that it may have, is it what it should be?")
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        # JSON can escape half a character, which neither pydantic nor a terminal takes.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source}: not valid JSON ({reason(error)}), mend it there.") from None
    if not isinstance(document, dict):
        raise SpecError(f"{source}: holds {type(document).__name__}, and must be a mapping of keys to values.")
    if _is_deep(document):
        raise SpecError(f"{source}: nested deeper than {MAX_DEPTH} levels, which nothing of it needs.")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key stands twice")
    return mapping


def _is_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)
