"""What the verbs share: consoles, tables, JSON, notes, highlighted YAML and shell completion of references."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._table import fact_lines, table_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from click.shell_completion import CompletionItem
    from rich.console import Console

    from connectomics_zoo import catalog

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
    """Print YAML on stdout, with coloured keys on a terminal and exactly as it is elsewhere."""
    if _is_styled() and not os.environ.get("NO_COLOR"):
        text = re.sub(
            r"^([ -]*)([\w.-]+:)(?= |$)", lambda key: key[1] + click.style(key[2], fg="blue"), text, flags=re.M
        )
    click.echo(text, nl=False)


def print_text(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """Print a sentence on stdout, wrapped between words on a terminal."""
    if is_terminal():
        import textwrap

        text = textwrap.fill(text, terminal_width() or PIPE_WIDTH)
    click.echo(_styled(text, bold=bold, dim=dim))


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), gap: int = 2
) -> None:
    """Print a table of plain texts as `table_lines` makes it; a narrow terminal wraps its cells."""
    head, body = table_lines(headers, rows, right=right, gap=gap, width=terminal_width())
    click.echo("\n".join([*(_styled(line, bold=True) for line in head), *body]))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print a table of names and what there is to say, wrapped as `print_table` does."""
    start = max(map(len, facts))
    lines = fact_lines(list(facts.items()), width=terminal_width())
    click.echo("\n".join(_styled(line[:start], bold=True) + line[start:] for line in lines))


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, None where it goes elsewhere and nothing is wrapped."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def _is_styled() -> bool:
    return is_terminal() and os.environ.get("TERM") != "dumb"


def _styled(text: str, *, bold: bool = False, dim: bool = False) -> str:
    return click.style(text, bold=bold or None, dim=dim or None) if (bold or dim) and _is_styled() else text


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reference of a model, as the `shell_complete` of an argument; without pydantic or torch.

    After `@` the versions are offered, after `.` the tags of the weights, and files where nothing else fits.
    """
    return _items(_known_models(incomplete), incomplete)


def complete_reference(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a model, task or experiment, as `complete_model` does."""
    return _items(_known_models(incomplete) | _known("tasks") | _known("experiments"), incomplete)


def complete_listed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete what `zoo list` lists: models, or what `--kind` says."""
    kind = ctx.params.get("kind")
    if kind == "task":
        return _items(_known("tasks"), incomplete)
    return _items(_known("experiments") if kind == "experiment" else _known_models(incomplete), incomplete)


def _known(kind: catalog.Kind) -> dict[str, str]:
    from connectomics_zoo import catalog

    return {entry.name: kind.removesuffix("s") for entry in catalog.entries(kind)}


def _known_models(incomplete: str) -> dict[str, str]:
    from connectomics_zoo.specs.listing import read_rows

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
