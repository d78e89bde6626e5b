"""`zoo list`: the models as a table, filtered and sorted; reads YAML and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from connectomics_zoo.cli.console import PIPE_WIDTH, complete_model, note, print_json, stdout_console
from connectomics_zoo.errors import UnknownNameError, nearest
from connectomics_zoo.listing import FIELDS, Listing, Row, filter_rows, read_rows, sort_rows
from connectomics_zoo.reading import MAX_EDGE

if TYPE_CHECKING:
    from rich.table import Table

_HIDE_FIRST = ("family", "version", "weights", "scales", "legal sizes", "GFLOPs")
"""What a narrow terminal goes without, in this order."""

_EPILOG = """\b
Examples:
  zoo list 'mednext*'
  zoo list monai --sort -parameters
  zoo list --where 'parameters < 20e6 and deep_supervision'
  zoo list --where "'mito' in weights or family in ['rsunet']" --json

\b
Fields of --where and --sort:
""" + "\n".join(f"  {name:<21} {description}" for name, description in FIELDS.items())


@click.command(epilog=_EPILOG)
@click.argument("pattern", default="*", shell_complete=complete_model)
@click.option(
    "--where",
    default="",
    metavar="EXPRESSION",
    help="Only models for which it is true: fields, numbers, 'texts', [lists], < <= > >= == != in, and, or, not.",
)
@click.option("--sort", default="name", metavar="FIELD", help="Sort by this field; -FIELD for descending.")
@click.option("--all-versions", is_flag=True, help="Also the older versions.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(pattern: str, where: str, sort: str, all_versions: bool, as_json: bool) -> None:
    """List the models whose name or family matches PATTERN (a glob)."""
    listing = read_rows(all_versions=all_versions)
    for path, reason in listing.broken:
        note(f"broken spec, not listed: {reason if str(path) in reason else f'{path}: {reason}'}")
    rows = sort_rows(filter_rows(listing.rows, pattern=pattern, where=where), by=sort)
    if not rows:
        _refuse_unknown(pattern, listing)
        note("no model matches.")
    if as_json:
        print_json([vars(row) for row in rows])
    elif rows:
        _print_table(rows)


def _refuse_unknown(pattern: str, listing: Listing) -> None:
    """A name without wildcards that no model has is a mistake; an expression that selects nothing is an answer."""
    if not set("*?[") & set(pattern) and not filter_rows(listing.rows, pattern=pattern):
        known = {row.name for row in listing.rows} | {row.family for row in listing.rows}
        raise UnknownNameError(f"unknown model or family {pattern!r}: {nearest(pattern, known)}")


def _print_table(rows: list[Row]) -> None:
    """Print everything where it fits; on a narrow terminal, shorten the numbers and then leave columns out."""
    from rich.measure import Measurement

    console = stdout_console()
    unlimited = console.options.update(width=PIPE_WIDTH)
    for hidden, exact in ((), True), *((_HIDE_FIRST[:count], False) for count in range(len(_HIDE_FIRST) + 1)):
        table = _table([_cells(row, exact=exact) for row in rows], hidden=hidden, gap=int(exact))
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    console.print(table)
    console.print(_footnote(rows), style="dim")
    if hidden:
        console.print(f"This terminal is too narrow for: {', '.join(hidden)}.", style="dim")


def _table(cells: list[dict[str, str]], *, hidden: tuple[str, ...], gap: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    headers = [header for header in cells[0] if header not in hidden]
    for header in headers:
        right = header in ("parameters", "params", "GFLOPs", "scales")
        table.add_column(header, justify="right" if right else "left", no_wrap=True, overflow="fold")
    for row in cells:
        table.add_row(*(row[header] for header in headers))
    return table


def _cells(row: Row, *, exact: bool) -> dict[str, str]:
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


def _legal_sizes(row: Row, *, exact: bool) -> str:
    """`32+16n`, axis by axis `16,32,32+16n`, or `64` where there is one legal size."""
    minimum, step = (
        str(sizes[0]) if len(set(sizes)) == 1 else ",".join(str(size) for size in sizes)
        for sizes in (row.minimum, row.step)
    )
    if all(low + step > MAX_EDGE for low, step in zip(row.minimum, row.step, strict=False)):
        return minimum
    gap = "\n" if "," in step and not exact else ""
    return f"{minimum}{gap}+{step}n"


def _footnote(rows: list[Row]) -> str:
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
