"""`zoo export SOURCE OUT --format F`: a network, or labels, in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text
from connectomics_zoo.cli._export_labels import export as export_labels
from connectomics_zoo.cli._export_labels import label_options, refuse_others
from connectomics_zoo.cli._references import complete_model
from connectomics_zoo.errors import nearest
from connectomics_zoo.export.formats import FORMATS

if TYPE_CHECKING:
    from connectomics_zoo.export.run import ExportReport

_EPILOG = (
    "\b\nFormats:\n"
    + "\n".join(f"  {name:<13} {form.summary}" for name, form in FORMATS.items())
    + """
\b
Examples:
  zoo export mednext-S.vnc-mito mito.onnx --format onnx --activation task
  zoo export my-run net.pt2 --format torch-export
  zoo export monai_unet unet --format openvino --size 64,64,64
  zoo export neurons.h5:main neurons --format precomputed --meshes --skeletons
"""
)


@click.command("export", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", shell_complete=complete_model)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "form", metavar="FORMAT", help="What to write, see below.")
@click.option(
    "--size",
    metavar="Z,Y,X",
    callback=axis_numbers(int, counts=(2, 3), example="64,128,128"),
    help="Take this size of input alone [default: every legal size, as far as the format can].",
)
@click.option(
    "--activation",
    type=click.Choice(["none", "task"]),
    help="Return logits, or the values of the task's channels, such as probabilities [default: none].",
)
@label_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(source: str, out: Path, form: str | None, as_json: bool, **given: Any) -> None:
    """Write SOURCE to OUT in the format of another program.

    Of a network, SOURCE is a reference: a model alone is exported with initial weights, name.tag, hf://org/repo or a
    run folder with its trained ones. What is written is run at several legal sizes and compared with torch; it appears
    whole, or not at all.

    Of labels, SOURCE is a volume of whole numbers, each of which but 0 is an object: what is written has several
    scales and, in a precomputed volume, meshes, skeletons and a list of objects with names and sizes, all in nm. It is
    made block by block; what is done lies in OUT.job until it is finished, and whatever stops it, the same command goes
    on.
    """
    if form is None:
        raise click.UsageError(f"say what to write: --format {', '.join(FORMATS)}.")
    if form not in FORMATS:
        raise click.UsageError(f"--format {form!r} is unknown: {nearest(form, FORMATS)}")
    kind = FORMATS[form].kind
    refuse_others(given, form=form, kind=kind)
    if kind == "labels":
        export_labels(source, out, form=form, given=given, as_json=as_json)
    else:
        _export_network(source, out, form=form, size=given["size"], activation=given["activation"], as_json=as_json)


def _export_network(
    source: str, out: Path, *, form: str, size: tuple[int, ...] | None, activation: str | None, as_json: bool
) -> None:
    from connectomics_zoo.export.run import export_network

    assert activation in (None, "none", "task")
    report = export_network(source, out, format=form, size=size, activation=activation or "none")  # type: ignore[arg-type]
    for text in report.notes:
        note(f"{text}.")
    if as_json:
        from dataclasses import asdict

        print_json(asdict(report))
    else:
        _print(report)


def _print(report: ExportReport) -> None:
    batch = "any batch" if report.any_batch else "a batch of one"
    worst = max(check.difference / check.largest for check in report.compared)
    print_text(f"{report.out}: {report.reference} as {report.format}, {report.size_bytes / 1e6:.1f} MB")
    print_text(f"takes {report.sizes} voxels, {batch}; returns {'logits' if report.activation == 'none' else 'values'}")
    print_text(
        f"compared with torch at {len(report.compared)} sizes: off by {worst:.1g} of the largest value at most, "
        f"{report.tolerance:g} is allowed"
    )
