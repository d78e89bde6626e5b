"""What a verb gives, as a table: of cells for a terminal, of HTML for a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from connectomics_zoo.errors import printable

LONGEST = 300
"""Characters of a cell that says what a field holds."""

FACTS = ("field", "value")
"""The headers of a table of names and what there is to say."""


class Table(NamedTuple):
    """Texts in rows."""

    headers: tuple[str, ...]
    """The titles of the columns."""
    rows: Sequence[tuple[str, ...]]
    """The cells, as many in each row as there are headers."""

    def to_html(self) -> str:
        """Return it as HTML in which every text is escaped."""
        head = "".join(f"<th>{_cell(text)}</th>" for text in self.headers)
        rows = ("".join(f"<td>{_cell(text)}</td>" for text in row) for row in self.rows)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Report:
    """Base of the reports, which are dataclasses: a notebook shows them as tables."""

    def table(self) -> Table:
        """Return the fields that say something, or what a kind of report has better to show."""
        assert dataclasses.is_dataclass(self)
        return facts({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def _repr_html_(self) -> str:
        return self.table().to_html()


def facts(values: Mapping[str, Any]) -> Table:
    """Return a table of names and values, without what is None or empty."""
    told = {name: value for name, value in values.items() if value is not None and value not in ("", (), [], {})}
    return Table(FACTS, [(name.replace("_", " "), _text(value)) for name, value in told.items()])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        text = ", ".join(f"{key} {_nested(item)}" for key, item in value.items() if item is not None)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        text = f"{len(value)} of them" if _holds_records(value) else ", ".join(map(_nested, value))
    else:
        text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _nested(value: Any) -> str:
    return f"({_text(value)})" if isinstance(value, Mapping | list | tuple) else _text(value)


def _holds_records(values: Iterable[Any]) -> bool:
    return any(dataclasses.is_dataclass(value) for value in values)


def _cell(text: str) -> str:
    return html.escape(printable(text, keep="\n")).replace("\n", "<br>")
