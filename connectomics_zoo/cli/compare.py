"""`zoo compare REF… [KEY=VALUE]…`: networks under one budget, in one table and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from connectomics_zoo.cli._console import note, print_json, print_line, print_text
from connectomics_zoo.cli._references import complete_reference
from connectomics_zoo.cli._table import print_table

HIDE_FIRST = ("kvoxel/s", "predict MB", "train MB", "minutes", "steps", "parameters")
"""Columns that a narrow terminal goes without; the files have them."""

_EPILOG = """\b
Examples:
  zoo compare mednext-S monai_basic_unet3d task=mito --data image=v.h5:raw,label=v.h5:mito --steps 500 --seeds 3
  zoo compare vnc-mito vnc-mito-attention-unet data.root=FOLDER --minutes 30 --test z=13:16
  zoo compare mednext-S rsunet --data my-mito.yaml --steps 2000 training.patch_size=[16,96,96] --seeds 3
  zoo compare mednext-S.vnc-mito runs/mine --test image=new.h5:raw,label=new.h5:mito
"""


@click.command("compare", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("items", nargs=-1, metavar="REF... [KEY=VALUE]...", shell_complete=complete_reference)
@click.option("--data", metavar="EXPERIMENT|VOLUME", help="Task and data of an experiment; or image=…,label=…")
@click.option("--test", "tests", multiple=True, metavar="VOLUME", help="What is scored: image=…,label=…,z=0:9")
@click.option("--steps", type=click.IntRange(min=1), help="The budget: optimiser steps of each run.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="The budget: training of each run.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="Runs of each reference.")
@click.option("--output", default="comparison", show_default=True, metavar="FOLDER", help="Where all of it lies.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory, too.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    items: tuple[str, ...],
    data: str | None,
    tests: tuple[str, ...],
    steps: int | None,
    minutes: float | None,
    seeds: int,
    output: str,
    memory: bool,
    device: str,
    as_json: bool,
) -> None:
    """Train models and experiments under one budget, score them and trained weights on the same volumes.

    Data come from KEY=VALUE as for zoo train, from the references' own experiments, or from --data. What is scored
    has chosen nothing: with --test, the best validation chooses the weights and the test is scored; without, the last
    weights are scored on the validation data. The same command goes on where it was stopped; references and seeds can
    be added. Exit code 1: a reference could not be trained or scored, its row says why.
    """
    from connectomics_zoo.specs.overrides import parse_overrides
    from connectomics_zoo.train.added import parse_volume

    refs = [item for item in items if "=" not in item or Path(item).exists()]
    changes = parse_overrides([item for item in items if item not in refs])
    volumes = [parse_volume(text) for text in tests]
    is_volume = data is not None and "=" in data and not Path(data).exists()
    given: Any = parse_volume(data) if data is not None and is_volume else data
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.compare import compare

    with show_progress("compare") as progress:
        report = compare(
            refs,
            changes,
            data=given,
            test=volumes or None,
            steps=steps,
            minutes=minutes,
            seeds=seeds,
            output=output,
            device=device,
            memory="measure" if memory else "skip",
            progress=progress,
            notify=note,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        table = report.table()
        print_table(table.headers, table.rows, right=table.headers[1:], hide_first=HIDE_FIRST)
        print_line()
        for line in report.notes():
            print_text(line)
        note(f"wrote {output}/comparison.md, .csv, .json and .png")
    if report.has_failed:
        click.get_current_context().exit(1)
