"""`zoo status OUT`: how far the job is that makes an output."""

from __future__ import annotations

import dataclasses

import click

from connectomics_zoo.cli._console import print_json, print_text
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.schema.progress import duration


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(out: str, as_json: bool) -> None:
    """Show how far the job is that makes OUT: the output of zoo predict or zoo decode, finished or not.

    It looks into the folder OUT.job alone, and so works from any machine that sees it, while others work.
    """
    from connectomics_zoo.blocks.status import status_of

    status = status_of(out)
    if as_json:
        print_json(dataclasses.asdict(status))
        return
    if status.state == "finished":
        print_text(f"{status.out}: finished.")
        return
    rows = [
        (stage.name, f"{stage.done}/{stage.blocks}", f"{stage.voxels_done / max(1, stage.voxels):.1%}")
        for stage in status.stages
    ]
    print_table(("stage", "blocks", "done"), rows, right=("blocks", "done"))
    speed = "" if status.voxels_per_second is None else f", {status.voxels_per_second / 1e6:.3g} Mvoxel/s of late"
    left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left at that speed"
    print_text(f"{status.out}: {status.state}{speed}{left if status.state == 'working' else ''}.")
    for worker in status.workers:
        print_text(worker)
    if status.state == "stopped":
        print_text(f"Nobody works on it: repeat the zoo {status.verb} command to go on.")
