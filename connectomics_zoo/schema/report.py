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

    def to_text(self) -> str:
        """Return it as lines, with columns below their titles, for what shows no HTML."""
        cells = [[printable(text) for text in row] for row in (self.headers, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells)
        return "\n".join(line.rstrip() for line in lines)


class Page(NamedTuple):
    """What a notebook shows of something."""

    title: str
    """What it is called; may be empty."""
    summary: str
    """What it is; may be empty."""
    picture: str
    """SVG of ours, or nothing."""
    table: Table
    """What there is to say."""

    def to_html(self) -> str:
        """Return it as HTML in which every text is escaped."""
        head = f"<div><b>{_cell(self.title)}</b> {_cell(self.summary)}</div>" if self.title or self.summary else ""
        return f"{head}{self.picture and f'<div>{self.picture}</div>'}{self.table.to_html()}"

    def bundle(self) -> dict[str, str]:
        """Return it by media type, as IPython asks for it."""
        head = printable(f"{self.title}: {self.summary}" if self.title and self.summary else self.title or self.summary)
        text = self.table.to_text()
        return {"text/plain": f"{head}\n{text}" if head else text, "text/html": self.to_html()}


class Report:
    """Base of the reports, which are dataclasses: a notebook shows them as tables."""

    def table(self) -> Table:
        """Return the fields that say something, or what a kind of report has better to show."""
        assert dataclasses.is_dataclass(self)
        return facts({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def picture(self) -> str:
        """Return SVG that says it at a glance; nothing where a table does."""
        return ""

    def _repr_html_(self) -> str:
        return Page("", "", self.picture(), self.table()).to_html()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return Page("", "", self.picture(), self.table()).bundle()


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
