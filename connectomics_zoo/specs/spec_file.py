"""A model's spec as a file: its place, its text, and writing it."""

from __future__ import annotations

import os
from pathlib import Path

from connectomics_zoo import catalog
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import refuse_existing, whole_file
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate


def spec_file(name: str, *, output: Path) -> Path:
    """Return the file that the spec called `name` goes to: `output` itself, or `NAME.yaml` in the folder `output`.

    Raises:
        OutputError: the file exists, has another name, or its folder does not exist.
    """
    path = output / f"{name}.yaml" if output.is_dir() or output.suffix not in (".yaml", ".yml") else output
    if path.stem != name:
        raise OutputError(f"{path}: a spec's file is called after its model, write {path.with_name(f'{name}.yaml')}.")
    refuse_existing(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder, make it first.")
    return path


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
    with whole_file(path, overwrite=False) as partial:
        partial.write_text(spec_text(spec, path=path), encoding="utf-8")
