"""Chooses rows of the list by a pattern and an expression, and sorts them naturally."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from math import inf
from typing import Any

from connectomics_zoo.errors import UnknownNameError, nearest
from connectomics_zoo.specs.rows import FIELDS, AnyRow, ListKind, ModelRow, Row
from connectomics_zoo.specs.where import compile_where


def filter_rows(
    rows: Iterable[Row], *, kind: ListKind = "model", pattern: str = "*", family: str | None = None, where: str = ""
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


def _family(row: AnyRow) -> str | None:
    return row.family if isinstance(row, ModelRow) else None


def _spellings(row: AnyRow) -> tuple[str, ...]:
    names = [name for name in (row.name, _family(row)) if name is not None]
    return (row.reference, *names, *(f"{row.catalog}:{name}" for name in names))


def sort_rows(rows: Iterable[Row], *, kind: ListKind = "model", by: str = "name") -> list[Row]:
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
    ordered = sorted(rows, key=lambda row: (natural(row.name), natural(_version(row)), row.catalog))
    given = [row for row in ordered if getattr(row, field) is not None]
    given.sort(key=lambda row: _sort_key(getattr(row, field)), reverse=by.startswith("-"))
    return given + [row for row in ordered if getattr(row, field) is None]


def _version(row: AnyRow) -> str:
    return row.version if isinstance(row, ModelRow) else ""


def _sort_key(value: Any) -> Any:
    if isinstance(value, list):
        return [inf if item is None else item for item in value]  # along an axis without a limit
    if isinstance(value, dict):
        return sorted((name, str(item)) for name, item in value.items())
    return natural(value) if isinstance(value, str) else value


def natural(text: str) -> list[tuple[int, str]]:
    """Return what texts are sorted by: digits compare as numbers, everything else as text in any case."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
