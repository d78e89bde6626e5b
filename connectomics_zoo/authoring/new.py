"""Makes a new model from an existing one: its complete spec, measured, in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.base import Name
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.diff import flatten
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.overrides import override_model

FIRST_VERSION = "1.0.0"


def new_spec(name: str, *, base: str | Path | ModelSpec, changes: Mapping[str, Any]) -> ModelSpec:
    """Return the complete spec of a new model, `base` with `changes`, with everything in `expect` measured.

    It is version 1.0.0 and has no weights; its summary says what it was made from, where `changes` has none.

    Args:
        name: name of the new model.
        base: a reference or a spec.
        changes: nested overrides, see `overrides.override_model`.

    Raises:
        SpecError: the name is not legal, or a key or value is not allowed.
        UnknownNameError: there is no such base, or no such key.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise SpecError(
            f"{name!r} is no legal name for a model, write a letter and then at most 63 letters, digits, _ or -."
        ) from None
    origin = get_spec(base)
    changed = override_model(origin, changes)
    described = ", ".join(f"{key}={value}" for key, value in flatten(changes).items() if key != "summary")
    origin_text = f"{origin.name} {origin.version}" + (f" with {described}" if described else "")
    origin_text = origin_text if len(origin_text) < 300 else origin_text[:299] + "…"
    document = changed.model_dump(mode="json") | {
        "name": name,
        "version": FIRST_VERSION,
        "expect": None,
        "weights": {},
        "changes": {FIRST_VERSION: f"Made from {origin_text}."},
    }
    if "summary" not in changes:
        document["summary"] = f"{origin_text}."
    spec = validate(ModelSpec, document, source=name)
    # Imported here, so that what is not allowed is refused before torch is imported.
    from connectomics_zoo.network.build import measure_expectation

    return spec.model_copy(update={"expect": measure_expectation(spec)})
