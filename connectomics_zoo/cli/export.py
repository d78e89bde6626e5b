"""`zoo export SOURCE OUT --format F`: a network, or labels, in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text
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
    default="none",
    show_default=True,
    help="Return logits, or the values of the task's channels, such as probabilities.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    source: str, out: Path, form: str | None, size: tuple[int, ...] | None, activation: str, as_json: bool
) -> None:
    """Write SOURCE to OUT in the format of another program.

    Of a network, SOURCE is a reference: a model alone is exported with initial weights, name.tag, hf://org/repo or a
    run folder with its trained ones. What is written is run at several legal sizes and compared with torch; it appears
    whole, or not at all.
    """
    if form is None:
        raise click.UsageError(f"say what to write: --format {', '.join(FORMATS)}.")
    if form not in FORMATS:
        raise click.UsageError(f"--format {form!r} is unknown: {nearest(form, FORMATS)}")
    from connectomics_zoo.export.run import export_network

    assert activation in ("none", "task")
    report = export_network(source, out, format=form, size=size, activation=activation)  # type: ignore[arg-type]
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
