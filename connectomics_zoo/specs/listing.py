"""What the catalogues hold, as rows: read from YAML alone, filtered by an expression, sorted naturally."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_type_hints

from connectomics_zoo import catalog
from connectomics_zoo.catalog import SpecKind
from connectomics_zoo.errors import LimitError, SpecError, UnknownNameError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.specs.where import compile_where

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRow:
    """One version of one model, as its spec declares it; the fields are what `where` and `sort` know."""

    name: Annotated[str, "name of the model"]
    version: Annotated[str, "version of its spec"]
    reference: Annotated[str, "what to write for it: the name, with catalogue or version where it needs them"]
    catalog: Annotated[str, "catalogue that it is in"]
    family: Annotated[str, "group of related models"]
    builder: Annotated[str, "builder that makes the network"]
    summary: Annotated[str, "what it is, in one sentence"]
    parameters: Annotated[int | None, "parameters in training, with the deep-supervision heads"]
    parameters_inference: Annotated[int | None, "parameters without those heads"]
    gflops: Annotated[float | None, "10^9 operations of one forward pass, at flops_input"]
    flops_input: Annotated[list[int] | None, "input shape [B, C, Z, Y, X] that the operations are counted at"]
    scales: Annotated[int, "number of outputs in training"]
    deep_supervision: Annotated[bool, "whether there are several outputs"]
    axes: Annotated[str, "spatial axes: zyx or yx"]
    input_channels: Annotated[int, "channels of the input"]
    output_channels: Annotated[int, "channels of each output"]
    minimum: Annotated[list[int], "smallest legal size in voxels, per axis"]
    step: Annotated[list[int], "distance between legal sizes in voxels, per axis"]
    weights: Annotated[list[str], "tags of the trained weights"]
    license: Annotated[str, "licence of the network's code"]
    path: Annotated[str, "file of the spec"]


@dataclass(frozen=True)
class TaskRow:
    """One task, as its spec declares it."""

    name: Annotated[str, "name of the task"]
    reference: Annotated[str, "what to write for it: the name, with the catalogue where it needs one"]
    catalog: Annotated[str, "catalogue that it is in"]
    summary: Annotated[str, "what it is, in one sentence"]
    channels: Annotated[list[str], "names of the output channels"]
    targets: Annotated[list[str], "what each channel's target is made of"]
    decoding: Annotated[str, "how predictions become labels"]
    metrics: Annotated[list[str], "what validation reports"]
    path: Annotated[str, "file of the spec"]


@dataclass(frozen=True)
class ExperimentRow:
    """One experiment, as its spec declares it."""

    name: Annotated[str, "name of the experiment"]
    reference: Annotated[str, "what to write for it: the name, with the catalogue where it needs one"]
    catalog: Annotated[str, "catalogue that it is in"]
    summary: Annotated[str, "what it is, in one sentence"]
    model: Annotated[str, "reference of the model"]
    task: Annotated[str, "name of the task"]
    path: Annotated[str, "file of the spec"]


Row = TypeVar("Row", ModelRow, TaskRow, ExperimentRow)


def _descriptions(row: type) -> dict[str, str]:
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(row, include_extras=True).items()}


FIELDS: dict[SpecKind, dict[str, str]] = {
    "model": _descriptions(ModelRow),
    "task": _descriptions(TaskRow),
    "experiment": _descriptions(ExperimentRow),
}
"""The fields of the rows of each kind, and what they mean."""


class Broken(NamedTuple):
    """A spec file that cannot be listed."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """What the catalogues hold of one kind."""

    rows: list[Row]
    broken: list[Broken]


def read_rows(*, all_versions: bool = False) -> Listing[ModelRow]:
    """Return a row for every model of every catalogue, sorted by name, and the files that could not be read.

    Args:
        all_versions: also the older versions that lie beside the current ones.
    """
    return _read("model", _model_row, all_versions=all_versions)


def read_task_rows() -> Listing[TaskRow]:
    """Return a row for every task of every catalogue, sorted by name, and the files that could not be read."""
    return _read("task", _task_row, all_versions=False)


def read_experiment_rows() -> Listing[ExperimentRow]:
    """Return a row for every experiment of every catalogue, sorted by name, and the files that could not be read."""
    return _read("experiment", _experiment_row, all_versions=False)


def _read(
    kind: SpecKind, row: Callable[[catalog.Entry, str, dict[str, Any]], Row], *, all_versions: bool
) -> Listing[Row]:
    rows, broken = [], []
    entries = catalog.entries(kind)
    homes: dict[str, set[str]] = {}
    for entry in entries:
        homes.setdefault(entry.name, set()).add(entry.catalog.name)
    for entry in entries:
        if entry.version is not None and not all_versions:
            continue
        home = f"{entry.catalog.name}:" if len(homes[entry.name]) > 1 else ""
        reference = f"{home}{entry.name}" + (f"@{entry.version}" if entry.version else "")
        try:
            rows.append(row(entry, reference, read_yaml(entry.path)))
        except (SpecError, LimitError) as error:
            broken.append(Broken(entry.path, str(error)))
    return Listing(sort_rows(rows), broken)


def _model_row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> ModelRow:
    def take(path: str, kind: type) -> Any:
        return _take(document, path, kind, source=entry.path)

    measured = document.get("expect") is not None
    costed = measured and take("expect", dict).get("flops") is not None
    outputs = take("outputs", list)
    return ModelRow(
        name=entry.name,
        version=take("version", str),
        reference=reference,
        catalog=entry.catalog.name,
        family=take("family", str),
        builder=take("builder", str),
        summary=take("summary", str),
        parameters=take("expect.parameters.training", int) if measured else None,
        parameters_inference=take("expect.parameters.inference", int) if measured else None,
        gflops=take("expect.flops.total", int) / 1e9 if costed else None,
        flops_input=_take_sizes(document, "expect.flops.input_shape", source=entry.path) if costed else None,
        scales=len(outputs),
        deep_supervision=len(outputs) > 1,
        axes=take("input.axes", str),
        input_channels=take("input.channels", int),
        output_channels=take("outputs.0.channels", int),
        minimum=_take_sizes(document, "input.size.minimum", source=entry.path),
        step=_take_sizes(document, "input.size.step", source=entry.path),
        weights=list(take("weights", dict)) if document.get("weights") is not None else [],
        license=take("source.license", str),
        path=str(entry.path),
    )


def _task_row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> TaskRow:
    def take(path: str, kind: type) -> Any:
        return _take(document, path, kind, source=entry.path)

    channels = range(len(take("channels", list)))
    return TaskRow(
        name=entry.name,
        reference=reference,
        catalog=entry.catalog.name,
        summary=take("summary", str),
        channels=[take(f"channels.{index}.name", str) for index in channels],
        targets=[take(f"channels.{index}.target.kind", str) for index in channels],
        decoding=take("decode.method", str),
        metrics=[take(f"metrics.{index}", str) for index in range(len(take("metrics", list)))],
        path=str(entry.path),
    )


def _experiment_row(entry: catalog.Entry, reference: str, document: dict[str, Any]) -> ExperimentRow:
    def take(path: str) -> Any:
        return _take(document, path, str, source=entry.path)

    return ExperimentRow(
        name=entry.name,
        reference=reference,
        catalog=entry.catalog.name,
        summary=take("summary"),
        model=take("model"),
        task=take("task"),
        path=str(entry.path),
    )


def _take(document: dict[str, Any], path: str, kind: type, *, source: Path) -> Any:
    """Return the value at `path` (`outputs.0.channels`); what is missing or mistyped is an error naming the file."""
    value: Any = document
    for part in path.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise SpecError(f"{source}: {path} is missing, every spec of this kind has it.")
    if type(value) is not kind:
        raise SpecError(f"{source}: {path} is {value!r}, it must be of the type {kind.__name__}.")
    return value


def _take_sizes(document: dict[str, Any], path: str, *, source: Path) -> list[int]:
    value: list[int] = _take(document, path, list, source=source)
    if not value or any(type(item) is not int for item in value):
        raise SpecError(f"{source}: {path} is {value!r}, it must be a list of whole numbers.")
    return value


def filter_rows(
    rows: Iterable[Row], *, kind: SpecKind = "model", pattern: str = "*", family: str | None = None, where: str = ""
) -> list[Row]:
    """Return the rows that `pattern`, `family` and `where` all select, in the order given.

    Args:
        rows: what to select from.
        kind: what the rows are of.
        pattern: a glob over the name or, of models, the family, in any case: `mednext*`, `*-k5`, `monai`.
        family: the family, exactly; only models have one.
        where: an expression over the fields: `parameters < 20e6 and deep_supervision`.

    Raises:
        UnknownNameError: `where` names a field that there is not.
        ZooError: `where` is no expression.
    """
    matches = compile_where(where, fields=FIELDS[kind]) if where.strip() else None
    glob = pattern.casefold()
    return [
        row
        for row in rows
        if any(fnmatch.fnmatchcase(text.casefold(), glob) for text in _spellings(row))
        and family in (None, _family(row))
        and (matches is None or matches(vars(row)))
    ]


def _family(row: ModelRow | TaskRow | ExperimentRow) -> str | None:
    return row.family if isinstance(row, ModelRow) else None


def _spellings(row: ModelRow | TaskRow | ExperimentRow) -> tuple[str, ...]:
    names = [name for name in (row.name, _family(row)) if name is not None]
    return (row.reference, *names, *(f"{row.catalog}:{name}" for name in names))


def sort_rows(rows: Iterable[Row], *, kind: SpecKind = "model", by: str = "name") -> list[Row]:
    """Return the rows sorted by a field, `-field` for descending; texts sort naturally (`x2` before `x10`).

    Rows without a value come last either way; equal rows keep the order of their names and versions.

    Args:
        rows: what to sort.
        kind: what the rows are of.
        by: the field.

    Raises:
        UnknownNameError: there is no such field.
    """
    field = by.removeprefix("-")
    if field not in FIELDS[kind]:
        raise UnknownNameError(f"unknown field {field!r} to sort by: {nearest(field, FIELDS[kind])}")
    ordered = sorted(rows, key=lambda row: (_natural(row.name), _natural(_version(row)), row.catalog))
    given = [row for row in ordered if getattr(row, field) is not None]
    given.sort(key=lambda row: _sort_key(getattr(row, field)), reverse=by.startswith("-"))
    return given + [row for row in ordered if getattr(row, field) is None]


def _version(row: ModelRow | TaskRow | ExperimentRow) -> str:
    return row.version if isinstance(row, ModelRow) else ""


def _sort_key(value: Any) -> Any:
    return _natural(value) if isinstance(value, str) else value


def _natural(text: str) -> list[tuple[int, str]]:
    """Digits compare as numbers, everything else as text in any case."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def list_models(pattern: str = "*", *, family: str | None = None, where: str = "", sort: str = "name") -> list[str]:
    """Return the references of the models that all arguments select.

    A file that cannot be read is left out, with a warning in the log.

    Args:
        pattern: a glob over the name or the family, in any case: `mednext*`, `*-k5`, `monai`.
        family: the family, exactly.
        where: an expression over the fields of `ModelRow`: `parameters < 20e6 and deep_supervision`.
        sort: the field to sort by, `-field` for descending.

    Raises:
        UnknownNameError: `where` or `sort` names a field that there is not.
        ZooError: `where` is no expression.
    """
    listing = read_rows()
    for path, reason in listing.broken:
        _log.warning("%s is left out of the list: %s", path, reason)
    return [
        row.reference
        for row in sort_rows(filter_rows(listing.rows, pattern=pattern, family=family, where=where), by=sort)
    ]
