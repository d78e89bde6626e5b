"""`zoo list`: the models, weights, tasks, experiments or catalogues as a table, filtered and sorted; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import click

from connectomics_zoo.catalog import SPEC_KINDS, catalogs, names_of
from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._bytes import parse_bytes
from connectomics_zoo.cli._console import note, print_json, print_text, terminal_width
from connectomics_zoo.cli._references import complete_listed
from connectomics_zoo.cli._table import fits, print_table
from connectomics_zoo.errors import UnknownNameError, ZooError, nearest
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.specs.choosing import filter_rows, sort_rows
from connectomics_zoo.specs.costs import MARGIN
from connectomics_zoo.specs.listing import (
    STATED_PATCH,
    Listing,
    read_experiment_rows,
    read_rows,
    read_task_rows,
    read_weights_rows,
)
from connectomics_zoo.specs.plugins import plugin_problems, read_catalog_rows
from connectomics_zoo.specs.rows import (
    FIELDS,
    AnyRow,
    CatalogRow,
    ExperimentRow,
    ListKind,
    ModelRow,
    Row,
    TaskRow,
    WeightsRow,
)

_NUMBERS = ("parameters", "params", "train GB", "GFLOPs", "scales")

_HIDE_FIRST = ("family", "version", "scales", "GFLOPs", "legal sizes", "weights", "train GB", "params")
"""What a narrow terminal goes without, in this order, until `_SHORTEST` characters say what a model is."""

_SHORTEST = 24
_WHAT = "what it is"

_PATCH = axis_numbers(int, counts=(1, 2, 3), example="128 or 32,128,128")

_MOST_NAMES = 4
"""Channels of a task that are named in the table."""


def _plural(kind: str) -> str:
    return {"weights": "weights", "catalog": "catalogues"}.get(kind, f"{kind}s")


_EPILOG = """\b
Examples:
  zoo list 'mednext*'
  zoo list monai --sort -parameters
  zoo list --where 'parameters < 20e6 and deep_supervision'
  zoo list --where "'mito' in weights or family in ['rsunet']" --json
  zoo list --fits 24GB --patch 128
  zoo list --for mito
  zoo list --kind weights
  zoo list --kind task
  zoo list --kind experiment --where "task == 'mito'"
  zoo list --kind catalog --json
""" + "".join(
    f"\n\b\nFields of --where and --sort for {_plural(kind)}:\n"
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
@click.option("--for", "task", metavar="TASK", help="Only models with weights for this task, or weights for it.")
@click.option("--fits", callback=parse_bytes, metavar="24GB", help="Only models that train within this GPU's memory.")
@click.option(
    "--patch",
    callback=_PATCH,
    metavar="N|Z,Y,X",
    help="Patch that the memory of training is stated at, or the next legal one [default: 128].",
)
@click.option("--all-versions", is_flag=True, help="Also the older versions of models.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(
    pattern: str,
    kind: ListKind,
    where: str,
    sort: str,
    task: str | None,
    fits: int | None,
    patch: tuple[int, ...] | None,
    all_versions: bool,
    as_json: bool,
) -> None:
    """List the models whose name or family matches PATTERN (a glob), or the weights, tasks or experiments by name."""
    only = {"--all-versions": all_versions, "--fits": fits is not None, "--patch": patch is not None}
    given = [name for name, is_given in only.items() if is_given and kind != "model"]
    if given:
        raise ZooError(f"{_plural(kind)} have no {_OF_MODELS[given[0]]}, leave {given[0]} out.")
    if task is not None and kind not in ("model", "weights"):
        raise ZooError(f"--for {task} chooses models or weights, leave it out of --kind {kind}.")
    if task is not None and task not in names_of("task"):
        raise UnknownNameError(f"unknown task {task!r}: {nearest(task, names_of('task'))}")
    if kind == "model":
        listing = read_rows(all_versions=all_versions, patch=patch or STATED_PATCH)
        listing.rows[:] = [
            row for row in listing.rows if (task is None or task in row.tasks) and (fits is None or _fits_in(row, fits))
        ]
        models = _choose(listing, kind, pattern=pattern, where=where, sort=sort)
        _print(models, _print_models, as_json=as_json)
    elif kind == "weights":
        weights = read_weights_rows()
        weights.rows[:] = [row for row in weights.rows if task in (None, row.task)]
        _print(_choose(weights, kind, pattern=pattern, where=where, sort=sort), _print_weights, as_json=as_json)
    elif kind == "task":
        tasks = _choose(read_task_rows(), kind, pattern=pattern, where=where, sort=sort)
        _print(tasks, _print_tasks, as_json=as_json)
    elif kind == "catalog":
        homes = _choose(read_catalog_rows(), kind, pattern=pattern, where=where, sort=sort)
        _print(homes, _print_catalogs, as_json=as_json)
    else:
        experiments = _choose(read_experiment_rows(), kind, pattern=pattern, where=where, sort=sort)
        _print(experiments, _print_experiments, as_json=as_json)


_OF_MODELS = {"--all-versions": "versions", "--fits": "memory of training", "--patch": "memory of training"}


def _fits_in(row: ModelRow, memory: int) -> bool:
    return row.training_bytes is not None and row.training_bytes * (1 + MARGIN) <= memory


def _choose(listing: Listing[Row], kind: ListKind, *, pattern: str, where: str, sort: str) -> list[Row]:
    """Return the rows to print; what cannot be listed is a note."""
    for path, reason in listing.broken:
        owners = [f" of {home.owner}" for home in catalogs() if home.folder in path.parents and not home.is_builtin]
        whose = owners[0] if owners else ""
        note(f"broken spec{whose}, not listed: {reason if str(path) in reason else f'{path}: {reason}'}")
    for problem in plugin_problems():
        note(f"broken: {problem}")
    rows = sort_rows(filter_rows(listing.rows, kind=kind, pattern=pattern, where=where), kind=kind, by=sort)
    if not rows:
        _refuse_unknown(pattern, kind, listing)
        note(f"no {kind} matches.")
    return rows


def _refuse_unknown(pattern: str, kind: ListKind, listing: Listing[Row]) -> None:
    """A name without wildcards that nothing has is a mistake; an expression that selects nothing is an answer."""
    if set("*?[") & set(pattern) or filter_rows(listing.rows, kind=kind, pattern=pattern):
        return
    for other in SPEC_KINDS:
        if other != kind and pattern in names_of(other):
            article = "an" if other.startswith("e") else "a"
            raise UnknownNameError(f"{pattern!r} is no {kind} but {article} {other}, list it with --kind {other}.")
    rows: list[AnyRow] = list(listing.rows)
    known = {row.name for row in rows} | {row.family for row in rows if isinstance(row, ModelRow)}
    what = "model or family" if kind == "model" else kind
    raise UnknownNameError(f"unknown {what} {pattern!r}: {nearest(pattern, known)}")


def _print(rows: list[Row], print_rows: Callable[[list[Row]], None], *, as_json: bool) -> None:
    if as_json:
        print_json([vars(row) for row in rows])
    elif rows:
        print_rows(rows)


def _print_weights(rows: list[WeightsRow]) -> None:
    print_table(
        ("name", "task", "voxel in nm", "score", "licence", "what they find"),
        [
            (
                row.reference,
                row.task,
                "-" if row.voxel_size_nm is None else "×".join(f"{edge:g}" for edge in row.voxel_size_nm),
                next((f"{name.removeprefix('val/')} {value:.3f}" for name, value in row.scores.items()), "-"),
                row.license,
                row.finds,
            )
            for row in rows
        ],
        gap=1 if terminal_width() is not None else 2,
        hide_first=("what they find", "licence", "score", "voxel in nm", "task"),
    )
    print_text(
        "Voxels are the network's (z, y, x). Scores are of the validation sections that chose the weights: "
        "docs/which-model.md has those of sections that nobody had.",
        dim=True,
    )


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


def _print_catalogs(rows: list[CatalogRow]) -> None:
    print_table(
        ("name", "of", "models", "tasks", "experiments", "builders", "state"),
        [
            (
                row.name,
                row.owner,
                str(row.models),
                str(row.tasks),
                str(row.experiments),
                str(len(row.builders)),
                "broken" if row.problems else "good",
            )
            for row in rows
        ],
        right=("models", "tasks", "experiments", "builders"),
        hide_first=("experiments", "builders", "tasks"),
    )


def _print_models(rows: list[ModelRow]) -> None:
    """Print everything where it fits; on a narrow terminal, shorten the numbers and then leave columns out."""
    width = terminal_width()
    for exact in True, False:
        cells = [_cells(row, exact=exact) for row in rows]
        headers, texts = tuple(cells[0]), [tuple(row.values()) for row in cells]
        if exact and fits(headers, texts):
            break
    if width is not None and not exact:
        cells, hidden = _narrowed(cells, width)
        print_table(tuple(cells[0]), [tuple(row.values()) for row in cells], right=_NUMBERS, gap=1)
        if hidden:
            print_text(f"This terminal is too narrow for: {', '.join(hidden)}.", dim=True)
    else:
        print_table(headers, texts, right=_NUMBERS)
    print_text(_footnote(rows), dim=True)


def _narrowed(cells: list[dict[str, str]], width: int) -> tuple[list[dict[str, str]], list[str]]:
    """Return the cells that leave room to say what each model is, in one line, and the headers that were left out."""
    hidden: list[str] = []
    for header in ("", *_HIDE_FIRST):
        hidden += [header] if header else []
        columns = [name for name in cells[0] if name not in (*hidden, _WHAT)]
        taken = sum(max(len(name), *(len(row[name]) for row in cells)) + 1 for name in columns)
        if width - taken >= _SHORTEST:
            break
    room = width - taken
    kept = [*columns, _WHAT] if room >= len(_WHAT) else columns
    hidden += [] if _WHAT in kept else [_WHAT]
    return [{**{name: row[name] for name in kept}, **_cut(row, kept, room)} for row in cells], hidden


def _cut(row: dict[str, str], kept: list[str], room: int) -> dict[str, str]:
    """Return what the model is in at most `room` characters, of whole words."""
    if _WHAT not in kept:
        return {}
    text = row[_WHAT]
    return {_WHAT: text if len(text) <= room else f"{text[:room].rpartition(' ')[0].rstrip(',')}…"}


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
        "train GB": "-" if row.training_bytes is None else f"{row.training_bytes / 1e9:.1f}",
        "GFLOPs": gflops or "-",
        "scales": str(row.scales),
        "legal sizes": _legal_sizes(row),
        "weights": ", ".join(row.weights) or "-",
        _WHAT: row.summary,
    }


def _legal_sizes(row: ModelRow) -> str:
    """`32+16n`, axis by axis `16,32,32+16n`, or `64` where there is one legal size."""
    minimum, step = (
        str(sizes[0]) if len(set(sizes)) == 1 else ",".join(str(size) for size in sizes)
        for sizes in (row.minimum, row.step)
    )
    if all(low + step > MAX_EDGE for low, step in zip(row.minimum, row.step, strict=False)):
        return minimum
    return f"{minimum}+{step}n"


def _footnote(rows: list[ModelRow]) -> str:
    """Say at which input memory and GFLOPs are counted: the most common one, then the exceptions; and what n is."""
    parts = []
    if any(row.training_bytes is not None for row in rows):
        stated = _stated({row.name: None if row.training_bytes is None else row.training_patch for row in rows})
        parts.append(f"GB of a training step on a GPU, one patch of {stated}, in the recipe's precision.")
    if any(row.flops_input for row in rows):
        parts.append(f"GFLOPs at an input of {_stated({row.name: row.flops_input for row in rows})}.")
    return " ".join([*parts, "Legal sizes in voxels, n = 0, 1, 2, …"])


def _stated(shapes: dict[str, list[int] | None]) -> str:
    """The most common shape, and the others with the models that have them, or how many."""
    by_shape: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        if shape:
            by_shape.setdefault("×".join(map(str, shape)), []).append(name)
    common = max(by_shape, key=lambda shape: len(by_shape[shape]))
    others = [f"{shape} for {', '.join(names)}" for shape, names in by_shape.items() if shape != common]
    return "; ".join([common, *others])
