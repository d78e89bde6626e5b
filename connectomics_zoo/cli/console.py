"""What the verbs share: consoles, JSON, notes, highlighted YAML and shell completion of references."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from click.shell_completion import CompletionItem
    from rich.console import Console

PIPE_WIDTH = 10_000
"""Columns of an output that is no terminal: wide enough that nothing is cut or wrapped."""


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def stdout_console() -> Console:
    """Return a console on stdout: as wide as the terminal, or without end where the output goes elsewhere."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `zoo` ends well; rich alone would exit with 1

    return _Console(highlight=False, markup=False, emoji=False, width=None if is_terminal() else PIPE_WIDTH)


def note(message: str) -> None:
    """Print a note on stderr."""
    click.echo(f"zoo: {message}", err=True)


def print_json(data: Any) -> None:
    """Print `data` as indented JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def print_yaml(text: str) -> None:
    """Print YAML on stdout, coloured and wrapped on a terminal and exactly as it is elsewhere."""
    if not is_terminal():
        click.echo(text, nl=False)
        return
    from rich.syntax import Syntax

    stdout_console().print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def print_rows(console: Console, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table of plain texts; on a narrow terminal they are wrapped, never cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reference of a model, as the `shell_complete` of an argument; without pydantic or torch.

    After `@` the versions are offered, after `.` the tags of the weights, and files where nothing else fits.
    """
    return _items(_known_models(incomplete), incomplete)


def complete_reference(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a model, task or experiment, as `complete_model` does."""
    from connectomics_zoo import catalog

    tasks = {entry.name: "task" for entry in catalog.entries("tasks")}
    experiments = {entry.name: "experiment" for entry in catalog.entries("experiments")}
    return _items(_known_models(incomplete) | tasks | experiments, incomplete)


def _known_models(incomplete: str) -> dict[str, str]:
    from connectomics_zoo.listing import read_rows

    rows = read_rows(all_versions=True).rows
    known = {row.reference: row.summary for row in rows if "@" not in row.reference}
    if "@" in incomplete:
        known |= {f"{row.name}@{row.version}": row.summary for row in rows}
    if "." in incomplete:
        known |= {f"{row.name}.{tag}": row.summary for row in rows for tag in row.weights}
    return known


def _items(known: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    start = incomplete.casefold()
    items = [CompletionItem(name, help=text) for name, text in known.items() if name.casefold().startswith(start)]
    return items or [CompletionItem(incomplete, type="file")]
