"""`zoo decode PREDICTION OUT`: make objects of a prediction."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_line, print_text
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.schema.task import OBJECT_METHODS

if TYPE_CHECKING:
    from connectomics_zoo.decode import DecodeReport


@click.command("decode", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prediction")
@click.argument("out")
@click.argument("overrides", nargs=-1, metavar="[key=value]…")
@click.option("--task", help="The task that it was predicted for [default: what the file says].")
@click.option("--run", metavar="FOLDER", help="The run that it was predicted with, and its tuned settings.")
@click.option(
    "--method",
    type=click.Choice(OBJECT_METHODS),
    help="How objects are made [default: the run's or the task's way].",
)
@click.option("--tune", "tune_on", metavar="TRUTH", help="Try settings on this truth, and use the best.")
@click.option(
    "--ignore-label",
    "ignore_labels",
    type=int,
    multiple=True,
    help="Voxels with this label in TRUTH do not count, beside data.unlabelled of --run; may be repeated.",
)
@click.option(
    "--mask",
    metavar="VOLUME",
    help="Is 0 where TRUTH is not annotated: those voxels do not count [default: that of --run, if it has one].",
)
@click.option("--region", metavar="z=A:B,…", help="Use this part alone, as in z=13:16,y=0:512.")
@click.option(
    "--block",
    metavar="Z,Y,X",
    callback=axis_numbers(int, example="256,512,512"),
    help="Decode in blocks of these edges [default: as a whole, or such that fit into the memory].",
)
@click.option("--multiscale", is_flag=True, help="Add coarser levels to OUT, which must be a Zarr.")
@click.option("--workers", type=int, metavar="N", help="Work on blocks in N processes of this machine.")
@click.option("--cluster", metavar="FILE", help="Work on blocks on SLURM, as this YAML file describes.")
@click.option("--scheduler", metavar="ADDRESS", help="Work on blocks on the Dask cluster at tcp://HOST:PORT.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    prediction: str,
    out: str,
    overrides: tuple[str, ...],
    task: str | None,
    run: str | None,
    method: str | None,
    tune_on: str | None,
    ignore_labels: tuple[int, ...],
    mask: str | None,
    region: str | None,
    block: tuple[int, ...] | None,
    multiscale: bool,
    workers: int | None,
    cluster: str | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make objects of PREDICTION, each with a label of its own, and write them to OUT.

    PREDICTION is what zoo predict wrote, or one of another program, with --task. The settings are those of the task,
    unless the run was tuned; key=value changes one: threshold, seed_threshold, boundary_threshold, min_seed, min_size,
    stride.

    With --tune, a grid of thresholds is tried against TRUTH, then half a step around the best, and the best setting is
    used (adapted Rand error); with --run it is written to decode.yaml in that folder, from where the next zoo decode
    --run takes it. Voxels with the run's data.unlabelled or an --ignore-label in TRUTH do not count, nor those outside
    the --mask.

    --region takes a part, of TRUTH or else of the volume that was predicted. A prediction that does not fit into the
    memory is decoded in blocks, as with --block and --workers: components and watershed give the same objects then,
    mutex and agglomeration nearly the same. What is done lies in the folder OUT.job until OUT is finished: whatever
    stops it, the same command goes on, and loses one block at most. Fragments, their edges and the table of objects
    stay in OUT.objects.
    """
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.decode import decode
    from connectomics_zoo.specs.overrides import parse_overrides

    with show_progress("decode" if tune_on is None else "tune") as progress:
        report = decode(
            prediction,
            out,
            task=task,
            run=run,
            method=method,
            overrides=parse_overrides(overrides),
            tune_on=tune_on,
            ignore_labels=ignore_labels,
            mask=mask,
            region=region,
            block=block,
            multiscale=multiscale,
            workers=workers,
            cluster=cluster,
            scheduler=scheduler,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    settings = " ".join(f"{name}={_value(value)}" for name, value in report.settings.items())
    if report.mask is not None and mask is None:
        note(f"voxels outside of the run's mask {report.mask} do not count")
    if report.trials:
        _print_trials(report)
        print_line()
        print_text(f"best: --method {report.method} {settings}")
    shape = " x ".join(str(size) for size in report.shape)
    print_text(
        f"{report.out}: {shape} {report.dtype}, {report.objects} objects in {report.seconds:.1f} s by {report.method} "
        f"({settings})"
    )
    if report.blocks > 1:
        kept = "" if report.files is None else f"; fragments, edges and table lie in {report.files}"
        note(f"decoded in {report.blocks} blocks{kept}")
    if report.objects == 0:
        note("no object was found: look at the prediction, or lower threshold and min_size")
    if report.saved is not None:
        note(f"wrote {report.saved}, which zoo decode --run {run} will use")


def _print_trials(report: DecodeReport) -> None:
    varied = [
        name for name in report.settings if len({json.dumps(trial.settings[name]) for trial in report.trials}) > 1
    ]
    scores = ("adapted Rand error", "VOI split", "VOI merge", "objects")
    print_table(
        (*varied, *scores, ""),
        [
            (
                *(_value(trial.settings[name]) for name in varied),
                f"{trial.adapted_rand_error:.4f}",
                f"{trial.voi_split:.3f}",
                f"{trial.voi_merge:.3f}",
                str(trial.objects),
                "best" if trial.settings == report.settings else "",
            )
            for trial in sorted(report.trials, key=lambda trial: [trial.settings[name] for name in varied])
        ],
        right=(*varied, *scores),
    )


def _value(value: Any) -> str:
    """As it is written on the command line, without a space."""
    return json.dumps(value, separators=(",", ":"))
