"""`zoo suggest RUN VOLUME [OUT]`: which boxes of a volume to annotate next."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.cli.predict import options_of_predict

if TYPE_CHECKING:
    from connectomics_zoo.suggest import SuggestReport

_PREDICTION = ("others", "views", "intensity_range", "voxel_size_nm", "device", "precision", "batch_size", "frozen")
"""Options of `zoo predict` that mean the same here."""

_EPILOG = """\b
Examples:
  zoo suggest runs/mito volume.zarr -n 10
  zoo suggest runs/mito volume.zarr next --size 1,256,256
  zoo suggest runs/mito volume.zarr next --with runs/mito-2 --size section
"""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | str | None:
    """Read the size of a box: three numbers, or `section`."""
    if value == "section":
        return value
    return axis_numbers(int, example="1,256,256, or section")(ctx, param, value)


@click.command("suggest", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.argument("volume")
@click.argument("out", required=False)
@click.option("-n", "--number", type=int, default=10, show_default=True, help="How many boxes.")
@click.option(
    "--size",
    metavar="Z,Y,X",
    callback=_size,
    help="Edges of a box in voxels, or section for whole sections [default: the run's training patch].",
)
@click.option(
    "--by",
    type=click.Choice(["spread", "doubt"]),
    default="spread",
    show_default=True,
    help="Score by how far views and networks are apart, or by how near values are to the threshold.",
)
@click.option(
    "--diversity",
    type=float,
    default=0.5,
    show_default=True,
    help="What being unlike the boxes before counts against the score, 0 to 1.",
)
@click.option("--region", metavar="z=A:B,…", help="Choose in this part alone, as in z=13:16,y=0:512.")
@click.option("--exclude", metavar="VOLUME", help="Is not 0 where something is annotated already, of the same shape.")
@options_of_predict(*_PREDICTION)
@click.option("--overwrite", is_flag=True, help="Replace another prediction in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    run: str,
    volume: str,
    out: str | None,
    number: int,
    size: tuple[int, ...] | Literal["section"] | None,
    by: Literal["spread", "doubt"],
    diversity: float,
    region: str | None,
    exclude: str | None,
    others: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Suggest which boxes of VOLUME to annotate next: where RUN, in several views, or several networks disagree.

    The volume is predicted, in its flips where RUN has one view; then boxes are chosen one after the other, by the mean
    spread in them and by how unlike they are to those before, in place and in looks. No two share a voxel, and none has
    a voxel that RUN was trained or validated on, or that --exclude marks.

    OUT is a folder for suggested.csv, neuroglancer.json (a layer with boxes), napari.csv (shapes), regions.yaml (for
    data.train), and what was predicted, prediction.zarr and spread.zarr, which are used again. They may be made
    elsewhere before, as by zoo predict RUN VOLUME OUT/prediction.zarr --spread OUT/spread.zarr --views flips
    --workers 8.
    """
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.suggest import suggest

    with show_progress("suggest") as progress:
        report = suggest(
            [run, *others],
            volume,
            out,
            number=number,
            size=size,
            by=by,
            diversity=diversity,
            region=region,
            exclude=exclude,
            overwrite=overwrite,
            progress=progress,
            **asked,
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    _print(report)


def _print(report: SuggestReport) -> None:
    if len(report.members) > 1:
        note(f"scored by the {report.by} of {', '.join(report.members)}")
    rows = [
        (
            str(box.rank),
            *(f"{first}:{stop}" for first, stop in (box.z, box.y, box.x)),
            "" if box.centre_nm is None else ", ".join(f"{place:.0f}" for place in box.centre_nm),
            f"{box.score:.4f}",
        )
        for box in report.suggestions
    ]
    print_table(("rank", "z", "y", "x", "centre, nm", "score"), rows, right=("rank", "z", "y", "x", "score"))
    size = " x ".join(map(str, report.size))
    left_out = f", and {report.annotated} more have something annotated" if report.annotated else ""
    print_text(f"of {report.candidates} boxes of {size} voxels, whose mean score is {report.mean_score:.4f}{left_out}")
    if report.out is not None:
        print_text(f"{report.out}: suggested.csv, neuroglancer.json, napari.csv, regions.yaml, and what was predicted")
