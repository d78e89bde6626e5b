"""`zoo list`: the models, tasks or experiments as a table, filtered and sorted; reads YAML and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import click

from connectomics_zoo.catalog import SpecKind, names_of
from connectomics_zoo.cli._console import note, print_json, print_text
from connectomics_zoo.cli._references import complete_listed
from connectomics_zoo.cli._table import fits, print_table
from connectomics_zoo.errors import UnknownNameError, ZooError, nearest
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.specs.listing import (
    FIELDS,
    ExperimentRow,
    Listing,
    ModelRow,
    Row,
    TaskRow,
    filter_rows,
    read_experiment_rows,
    read_rows,
    read_task_rows,
    sort_rows,
)

_NUMBERS = ("parameters", "params", "GFLOPs", "scales")

_HIDE_FIRST = ("family", "version", "weights", "scales", "legal sizes", "GFLOPs")
"""What a narrow terminal goes without, in this order."""

_MOST_NAMES = 4
"""Channels of a task that are named in the table."""

_EPILOG = """\b
Examples:
  zoo list 'mednext*'
  zoo list monai --sort -parameters
  zoo list --where 'parameters < 20e6 and deep_supervision'
  zoo list --where "'mito' in weights or family in ['rsunet']" --json
  zoo list --kind task
  zoo list --kind experiment --where "task == 'mito'"
""" + "".join(
    f"\n\b\nFields of --where and --sort for {kind}s:\n"
    + "".join(f"  {name:<21} {description}\n" for name, description in fields.items())
    for kind, fields in FIELDS.items()
)


@click.command(epilog=_EPILOG)
@click.argument("pattern", default="*", shell_complete=complete_listed)
@click.option(
    "--kind", type=click.Choice(tuple(FIELDS)), default="model", show_default=True, help="What of the zoo to list."
)
@click.option(
    "--where",
    default="",
    metavar="EXPRESSION",
    help="Only those for which it is true: fields, numbers, 'texts', [lists], < <= > >= == != in, and, or, not.",
)
@click.option("--sort", default="name", metavar="FIELD", help="Sort by this field; -FIELD for descending.")
@click.option("--all-versions", is_flag=True, help="Also the older versions of models.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(pattern: str, kind: SpecKind, where: str, sort: str, all_versions: bool, as_json: bool) -> None:
    """List the models whose name or family matches PATTERN (a glob), or the tasks or experiments by name."""
    if all_versions and kind != "model":
        raise ZooError(f"{kind}s have no versions, leave --all-versions out.")
    if kind == "model":
        models = _choose(read_rows(all_versions=all_versions), kind, pattern=pattern, where=where, sort=sort)
        _print(models, _print_models, as_json=as_json)
    elif kind == "task":
        tasks = _choose(read_task_rows(), kind, pattern=pattern, where=where, sort=sort)
        _print(tasks, _print_tasks, as_json=as_json)
    else:
        experiments = _choose(read_experiment_rows(), kind, pattern=pattern, where=where, sort=sort)
        _print(experiments, _print_experiments, as_json=as_json)


def _choose(listing: Listing[Row], kind: SpecKind, *, pattern: str, where: str, sort: str) -> list[Row]:
    """Return the rows to print; what cannot be listed is a note."""
    for path, reason in listing.broken:
        note(f"broken spec, not listed: {reason if str(path) in reason else f'{path}: {reason}'}")
    rows = sort_rows(filter_rows(listing.rows, kind=kind, pattern=pattern, where=where), kind=kind, by=sort)
    if not rows:
        _refuse_unknown(pattern, kind, listing)
        note(f"no {kind} matches.")
    return rows


def _refuse_unknown(pattern: str, kind: SpecKind, listing: Listing[Row]) -> None:
    """A name without wildcards that nothing has is a mistake; an expression that selects nothing is an answer."""
    if set("*?[") & set(pattern) or filter_rows(listing.rows, kind=kind, pattern=pattern):
        return
    for other in FIELDS:
        if other != kind and pattern in names_of(other):
            article = "an" if other.startswith("e") else "a"
            raise UnknownNameError(f"{pattern!r} is no {kind} but {article} {other}, list it with --kind {other}.")
    known = {row.name for row in listing.rows} | {row.family for row in listing.rows if isinstance(row, ModelRow)}
    what = "model or family" if kind == "model" else kind
    raise UnknownNameError(f"unknown {what} {pattern!r}: {nearest(pattern, known)}")


def _print(rows: list[Row], print_rows: Callable[[list[Row]], None], *, as_json: bool) -> None:
    if as_json:
        print_json([vars(row) for row in rows])
    elif rows:
        print_rows(rows)


def _print_tasks(rows: list[TaskRow]) -> None:
    print_table(
        ("name", "channels", "targets", "decoding", "metrics", "summary"),
        [
            (
                row.reference,
                _shorten(row.channels),
                ", ".join(_count(row.targets)),
                row.decoding,
                ", ".join(row.metrics),
                row.summary,
            )
            for row in rows
        ],
        hide_first=("metrics", "targets", "decoding", "channels"),
    )


def _shorten(names: list[str]) -> str:
    """The names, of many the first ones."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"


def _count(kinds: list[str]) -> list[str]:
    """Each kind once, in order, with how often it occurs."""
    counts = Counter(kinds)
    return [kind if counts[kind] == 1 else f"{counts[kind]} {kind}" for kind in counts]


def _print_experiments(rows: list[ExperimentRow]) -> None:
    print_table(
        ("name", "model", "task", "summary"),
        [(row.reference, row.model, row.task, row.summary) for row in rows],
        hide_first=("task", "model"),
    )


def _print_models(rows: list[ModelRow]) -> None:
    """Print everything where it fits; on a narrow terminal, shorten the numbers and then leave columns out."""
    for exact in True, False:
        cells = [_cells(row, exact=exact) for row in rows]
        headers, texts = tuple(cells[0]), [tuple(row.values()) for row in cells]
        if exact and fits(headers, texts):
            break
    print_table(headers, texts, right=_NUMBERS, gap=2 if exact else 1, hide_first=_HIDE_FIRST)
    print_text(_footnote(rows), dim=True)


def _cells(row: ModelRow, *, exact: bool) -> dict[str, str]:
    """Return the texts of one row by header, in the order of the columns."""
    gflops = None if row.gflops is None else f"{row.gflops:,.1f}" if row.gflops < 1000 else f"{row.gflops:,.0f}"
    parameters = {"parameters": "-"} if exact else {"params": "-"}
    if row.parameters is not None:
        parameters = {"parameters": f"{row.parameters:,}"} if exact else {"params": f"{row.parameters / 1e6:,.1f} M"}
    return {
        "name": row.reference.partition("@")[0],
        "version": row.version,
        "family": row.family,
        **parameters,
        "GFLOPs": gflops or "-",
        "scales": str(row.scales),
        "legal sizes": _legal_sizes(row, exact=exact),
        "weights": (", " if exact else "\n").join(row.weights) or "-",
    }


def _legal_sizes(row: ModelRow, *, exact: bool) -> str:
    """`32+16n`, axis by axis `16,32,32+16n`, or `64` where there is one legal size."""
    minimum, step = (
        str(sizes[0]) if len(set(sizes)) == 1 else ",".join(str(size) for size in sizes)
        for sizes in (row.minimum, row.step)
    )
    if all(low + step > MAX_EDGE for low, step in zip(row.minimum, row.step, strict=False)):
        return minimum
    gap = "\n" if "," in step and not exact else ""
    return f"{minimum}{gap}+{step}n"


def _footnote(rows: list[ModelRow]) -> str:
    """Say at which input the GFLOPs are counted: the most common one, then the exceptions; and what n is."""
    sizes = "Legal sizes in voxels, n = 0, 1, 2, …"
    by_shape: dict[str, list[str]] = {}
    for row in rows:
        if row.flops_input:
            by_shape.setdefault("×".join(map(str, row.flops_input)), []).append(row.name)
    if not by_shape:
        return sizes
    common = max(by_shape, key=lambda shape: len(by_shape[shape]))
    others = [f"{shape} for {', '.join(names)}" for shape, names in by_shape.items() if shape != common]
    return f"GFLOPs at an input of {'; '.join([common, *others])}. {sizes}"
