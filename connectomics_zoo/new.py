"""Makes a new model from an existing one: its complete spec, measured, in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connectomics_zoo import catalog
from connectomics_zoo.compare import flatten
from connectomics_zoo.errors import OutputError, SpecError
from connectomics_zoo.overrides import override_model
from connectomics_zoo.reading import dump_yaml, parse_yaml
from connectomics_zoo.registry import get_spec, validate
from connectomics_zoo.schema.base import Name
from connectomics_zoo.schema.model import ModelSpec

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
    story = f"{origin.name} {origin.version}" + (f" with {described}" if described else "")
    story = story if len(story) < 300 else story[:299] + "…"
    document = changed.model_dump(mode="json") | {
        "name": name,
        "version": FIRST_VERSION,
        "expect": None,
        "weights": {},
        "changes": {FIRST_VERSION: f"Made from {story}."},
    }
    if "summary" not in changes:
        document["summary"] = f"{story}."
    spec = validate(ModelSpec, document, source=name)
    # Imported here, so that what is not allowed is refused before torch is imported.
    from connectomics_zoo.build import measure

    return spec.model_copy(update={"expect": measure(spec)})


def spec_file(name: str, *, output: Path) -> Path:
    """Return the file that the spec called `name` goes to: `output` itself, or `NAME.yaml` in the folder `output`.

    Raises:
        OutputError: the file exists, has another name, or its folder does not exist.
    """
    path = output / f"{name}.yaml" if output.is_dir() or output.suffix not in (".yaml", ".yml") else output
    if path.stem != name:
        raise OutputError(f"{path}: a spec's file is called after its model, write {path.with_name(f'{name}.yaml')}.")
    _refuse_existing(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder, make it first.")
    return path


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists and is not overwritten, choose another name or place.")


def spec_text(spec: ModelSpec, *, path: Path) -> str:
    """Return the text of the file `path` that holds `spec`: its schema for editors, then every field."""
    document = spec.model_dump(mode="json")
    if not document["weights"]:
        del document["weights"]
    text = f"# yaml-language-server: $schema={_schema_for(path)}\n{dump_yaml(document)}"
    assert validate(ModelSpec, parse_yaml(text), source=str(path)) == spec
    return text


def _schema_for(path: Path) -> str:
    """The schema's place as seen from `path`: relative within a catalogue, otherwise where this package has it."""
    folder = path.resolve().parent
    for parent in folder.parents:
        if (parent / "schema" / "model.schema.json").is_file():
            return Path(os.path.relpath(parent / "schema" / "model.schema.json", folder)).as_posix()
    home = next(item.folder for item in catalog.catalogs() if item.name == "zoo")
    return (home / "specs" / "schema" / "model.schema.json").resolve().as_posix()


def write_spec(spec: ModelSpec, *, path: Path) -> None:
    """Write `spec` to `path`; at no moment does a half-written file have that name.

    Raises:
        OutputError: the folder cannot be written to, or the file exists by now.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(spec_text(spec, path=path), encoding="utf-8")
        _refuse_existing(path)  # measuring took its time
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}), give a writable place.") from None
    finally:
        partial.unlink(missing_ok=True)
