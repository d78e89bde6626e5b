"""Completion of references in the shell; without pydantic or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectomics_zoo.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import click
    from click.shell_completion import CompletionItem

    from connectomics_zoo.catalog import SpecKind


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reference of a model, as the `shell_complete` of an argument.

    After `@` the versions are offered, after `.` the tags of the weights, and files where nothing else fits.
    """
    return _items(_known_models(incomplete), incomplete)


def complete_reference(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a model, task or experiment, as `complete_model` does."""
    return _items(_known_models(incomplete) | _known("task") | _known("experiment"), incomplete)


def complete_listed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete what `zoo list` lists: models, or what `--kind` says."""
    kind = ctx.params.get("kind")
    if kind == "task":
        return _items(_known("task"), incomplete)
    return _items(_known("experiment") if kind == "experiment" else _known_models(incomplete), incomplete)


def _known(kind: SpecKind) -> dict[str, str]:
    from connectomics_zoo.catalog import names_of

    return dict.fromkeys(sorted(names_of(kind)), kind)


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
    items = [
        CompletionItem(name, help=printable(text))
        for name, text in known.items()
        if name.casefold().startswith(start) and printable(name) == name
    ]
    return items or [CompletionItem(incomplete, type="file")]
