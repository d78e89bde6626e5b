"""What `zoo show` prints: sections, each a title, names and what there is to say, or a table; short, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from connectomics_zoo.cli._console import print_line, print_text
from connectomics_zoo.cli._table import Row, print_facts, print_table
from connectomics_zoo.schema.experiment import Spec
from connectomics_zoo.specs.lookup import Resolved

MOST_LINES = 3
"""Lines of a fact in what fits a screen."""

MOST_ROWS = 16
"""Rows of a table in what fits a screen."""


@dataclass(frozen=True)
class Shown:
    """What is shown."""

    found: Resolved
    """What the reference means, as it is declared."""
    spec: Spec
    """What is shown of it: the same, or with changes."""
    all: bool
    """Whether everything is shown, or what fits a screen."""

    @property
    def is_changed(self) -> bool:
        """Whether it is not what was declared."""
        return self.spec is not self.found.spec


@dataclass(frozen=True)
class Title:
    """What it is called, and what it is in a sentence."""

    title: str
    summary: str


@dataclass(frozen=True)
class Facts:
    """Names, and what there is to say."""

    items: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows below their headers; of no row, nothing is printed."""

    headers: Row
    rows: Sequence[Row]
    most: int = MOST_ROWS
    """Rows that are shown where not all is."""


Section = Callable[[Shown], Title | Facts | Table | None]
"""Returns a part of the page; None where there is nothing to say."""


def print_sections(shown: Shown, sections: Sequence[Section]) -> None:
    """Print what the sections return, with an empty line between two."""
    parts = [part for section in sections if (part := section(shown)) is not None and not _is_empty(part)]
    for number, part in enumerate(parts):
        if number:
            print_line()
        _print(part, everything=shown.all)


def _is_empty(part: Title | Facts | Table) -> bool:
    return (isinstance(part, Facts) and not part.items) or (isinstance(part, Table) and not part.rows)


def _print(part: Title | Facts | Table, *, everything: bool) -> None:
    if isinstance(part, Title):
        print_text(part.title, bold=True)
        print_text(part.summary)
    elif isinstance(part, Facts):
        print_facts(part.items, most=None if everything else MOST_LINES)
    else:
        rows = part.rows if everything else part.rows[: part.most]
        print_table(part.headers, rows)
        if len(rows) < len(part.rows):
            print_text(f"and {len(part.rows) - len(rows)} more", dim=True)
