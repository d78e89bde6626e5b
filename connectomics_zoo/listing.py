"""The models of the catalogues as rows: read from YAML alone, filtered by an expression, sorted naturally."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from connectomics_zoo import catalog
from connectomics_zoo.errors import LimitError, SpecError, UnknownNameError, nearest
from connectomics_zoo.reading import read_yaml
from connectomics_zoo.where import compile_where

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
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


FIELDS: dict[str, str] = {name: hint.__metadata__[0] for name, hint in get_type_hints(Row, include_extras=True).items()}
"""The fields of a row and what they mean."""


class Broken(NamedTuple):
    """A spec file that cannot be listed."""

    path: Path
    reason: str


class Listing(NamedTuple):
    """What the catalogues hold."""

    rows: list[Row]
    broken: list[Broken]


def read_rows(*, all_versions: bool = False) -> Listing:
    """Return a row for every model of every catalogue, sorted by name, and the files that could not be read.

    Args:
        all_versions: also the older versions that lie beside the current ones.
    """
    rows, broken = [], []
    entries = catalog.entries("models")
    homes: dict[str, set[str]] = {}
    for entry in entries:
        homes.setdefault(entry.name, set()).add(entry.catalog.name)
    for entry in entries:
        if entry.version is not None and not all_versions:
            continue
        try:
            rows.append(_row(entry, read_yaml(entry.path), ambiguous=len(homes[entry.name]) > 1))
        except (SpecError, LimitError) as error:
            broken.append(Broken(entry.path, str(error)))
    return Listing(sort_rows(rows), broken)


def _row(entry: catalog.Entry, document: dict[str, Any], *, ambiguous: bool) -> Row:
    def take(path: str, kind: type) -> Any:
        return _take(document, path, kind, source=entry.path)

    home = f"{entry.catalog.name}:" if ambiguous else ""
    measured = document.get("expect") is not None
    costed = measured and take("expect", dict).get("flops") is not None
    outputs = take("outputs", list)
    return Row(
        name=entry.name,
        version=take("version", str),
        reference=f"{home}{entry.name}" + (f"@{entry.version}" if entry.version else ""),
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


def _take(document: dict[str, Any], path: str, kind: type, *, source: Path) -> Any:
    """Return the value at `path` (`outputs.0.channels`); what is missing or mistyped is an error naming the file."""
    value: Any = document
    for part in path.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise SpecError(f"{source}: {path} is missing, every model has it.")
    if type(value) is not kind:
        raise SpecError(f"{source}: {path} is {value!r}, it must be of the type {kind.__name__}.")
    return value


def _take_sizes(document: dict[str, Any], path: str, *, source: Path) -> list[int]:
    value: list[int] = _take(document, path, list, source=source)
    if not value or any(type(item) is not int for item in value):
        raise SpecError(f"{source}: {path} is {value!r}, it must be a list of whole numbers.")
    return value


def filter_rows(rows: Iterable[Row], *, pattern: str = "*", family: str | None = None, where: str = "") -> list[Row]:
    """Return the rows that `pattern`, `family` and `where` all select, in the order given.

    Args:
        rows: what to select from.
        pattern: a glob over the name or the family, in any case: `mednext*`, `*-k5`, `monai`.
        family: the family, exactly.
        where: an expression over the fields: `parameters < 20e6 and deep_supervision`.

    Raises:
        UnknownNameError: `where` names a field that there is not.
        ZooError: `where` is no expression.
    """
    matches = compile_where(where, fields=FIELDS) if where.strip() else None
    glob = pattern.casefold()
    return [
        row
        for row in rows
        if any(fnmatch.fnmatchcase(text.casefold(), glob) for text in _spellings(row))
        and family in (None, row.family)
        and (matches is None or matches(vars(row)))
    ]


def _spellings(row: Row) -> tuple[str, ...]:
    return (row.name, row.reference, row.family, f"{row.catalog}:{row.name}", f"{row.catalog}:{row.family}")


def sort_rows(rows: Iterable[Row], *, by: str = "name") -> list[Row]:
    """Return the rows sorted by a field, `-field` for descending; texts sort naturally (`x2` before `x10`).

    Rows without a value come last either way; equal rows keep the order of their names and versions.

    Raises:
        UnknownNameError: there is no such field.
    """
    field = by.removeprefix("-")
    if field not in FIELDS:
        raise UnknownNameError(f"unknown field {field!r} to sort by: {nearest(field, FIELDS)}")
    ordered = sorted(rows, key=lambda row: (_natural(row.name), _natural(row.version), row.catalog))
    given = [row for row in ordered if getattr(row, field) is not None]
    given.sort(key=lambda row: _sort_key(getattr(row, field)), reverse=by.startswith("-"))
    return given + [row for row in ordered if getattr(row, field) is None]


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
        where: an expression over the fields of `Row`: `parameters < 20e6 and deep_supervision`.
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
