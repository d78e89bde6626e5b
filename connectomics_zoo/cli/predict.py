"""`zoo predict RUN VOLUME OUT`: predict a volume with a trained network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text
from connectomics_zoo.errors import reason

if TYPE_CHECKING:
    from connectomics_zoo.predict import PredictReport


@click.command("predict", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.argument("volume")
@click.argument("out")
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="RUN",
    help="Another network: the mean over all is predicted; may be repeated.",
)
@click.option(
    "--spread",
    metavar="OUT2",
    help="Write there how far views and networks are apart: the standard deviation over all of them.",
)
@click.option(
    "--window",
    callback=axis_numbers(int, counts=(2, 3), example="16,128,128"),
    metavar="Z,Y,X",
    help="Window in network voxels [default: the run's].",
)
@click.option("--overlap", type=float, help="Fraction that neighbouring windows share [default: the run's].")
@click.option(
    "--views",
    type=click.Choice(["one", "flips", "flips_and_turns"]),
    help="Views of each window: as it is, its flips, or these and the turns by 90 degrees [default: the run's].",
)
@click.option("--merge", type=click.Choice(["mean", "min"]), help="How views are merged [default: the run's].")
@click.option(
    "--intensity-range",
    metavar="LOW,HIGH",
    callback=axis_numbers(float, counts=(2,), example="0,4095"),
    help="Grey values that become 0 and 1 [default: the run's, or the range of the volume's type].",
)
@click.option(
    "--voxel-size-nm",
    "--voxel-size",
    "voxel_size_nm",
    metavar="Z,Y,X",
    callback=axis_numbers(float, counts=(3,), example="50,4,4"),
    help="Voxel size of a VOLUME that does not say it [default: the run's].",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--engine",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    show_default=True,
    help="What computes the network; openvino is an extra for CPUs, faster for some networks.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="auto is float32 on the CPU, and the run's own on CUDA.",
)
@click.option("--batch-size", type=int, default=1, show_default=True, help="Windows at a time.")
@click.option(
    "--output",
    type=click.Choice(["probability", "label"]),
    default="probability",
    show_default=True,
    help="Every channel's value, or the labels that the task makes of them.",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "float16", "float32"]),
    default="uint8",
    show_default=True,
    help="Data type of probabilities; uint8 holds 255 times the probability.",
)
@click.option("--region", metavar="z=A:B,…", help="Predict this part alone, as in z=13:16,y=0:512.")
@click.option("--mask", metavar="VOLUME", help="Predict only where this volume, of the same shape, is not 0.")
@click.option("--multiscale", is_flag=True, help="Add coarser levels to OUT, which must be a Zarr.")
@click.option("--workers", type=int, metavar="N", help="Work on blocks in N processes of this machine.")
@click.option("--cluster", metavar="FILE", help="Work on blocks on SLURM, as this YAML file describes.")
@click.option("--scheduler", metavar="ADDRESS", help="Work on blocks on the Dask cluster at tcp://HOST:PORT.")
@click.option("--shard", metavar="I/N", help="Work on share I (from 0) of N of the blocks, as a job of an array does.")
@click.option("--dry-run", is_flag=True, help="Print the script of --cluster's jobs, and do nothing.")
@click.option(
    "--picture",
    metavar="FILE.png",
    help="Draw three slices, prediction over image [default: OUT.png for several blocks].",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--frozen", is_flag=True, help="Use only weights that the lock file zoo.lock has (see zoo lock).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    run: str,
    volume: str,
    out: str,
    others: tuple[str, ...],
    spread: str | None,
    window: tuple[int, ...] | None,
    overlap: float | None,
    views: Literal["one", "flips", "flips_and_turns"] | None,
    merge: Literal["mean", "min"] | None,
    intensity_range: tuple[float, float] | None,
    voxel_size_nm: tuple[float, float, float] | None,
    device: str,
    engine: Literal["torch", "openvino"],
    precision: Literal["auto", "float32", "bfloat16", "float16"],
    batch_size: int,
    output: Literal["probability", "label"],
    dtype: Literal["uint8", "float16", "float32"],
    region: str | None,
    mask: str | None,
    multiscale: bool,
    workers: int | None,
    cluster: str | None,
    scheduler: str | None,
    shard: str | None,
    dry_run: bool,
    picture: str | None,
    overwrite: bool,
    frozen: bool,
    as_json: bool,
) -> None:
    """Predict VOLUME with the trained network RUN and write the result to OUT.

    RUN is a run folder, weights by name (mednext-S.vnc-mito), or a repository on the Hugging Face Hub
    (hf://org/repo@revision). With others beside it (--with), an ensemble predicts: the mean over all networks, taken
    after the activation.

    VOLUME is file.h5:dataset, file.tif, a folder of sections or volume.zarr:array; OUT is file.h5:dataset, file.tif
    or volume.zarr. The volume is never in memory as a whole, and OUT appears complete or not at all: until then its
    blocks are in the folder OUT.job. Whatever stops it, the same command goes on, and loses one block at most.
    """
    if dry_run:
        _print_job_script(cluster)
        return
    if picture is not None:
        from connectomics_zoo.pictures.drawing import check_picture

        check_picture(Path(picture))
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.predict import predict

    with show_progress("predict", speed=_speed) as progress:
        report = predict(
            [run, *others],
            volume,
            out,
            window=window,
            overlap=overlap,
            views=views,
            merge=merge,
            intensity_range=intensity_range,
            voxel_size_nm=voxel_size_nm,
            device=device,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            output=output,
            dtype=dtype,
            region=region,
            mask=mask,
            multiscale=multiscale,
            spread=spread,
            workers=workers,
            cluster=cluster,
            scheduler=scheduler,
            shard=shard,
            overwrite=overwrite,
            frozen=frozen,
            progress=progress,
        )
    drawn = _draw(picture, report, volume=volume, shard=shard)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    if drawn is not None:
        note(f"three slices of it are drawn in {drawn}")
    if len(report.members) > 1:
        note(f"predicted the mean of {', '.join(report.members)}")
    elif report.run != run:
        note(f"predicted with the weights {report.run}")
    shape = " x ".join(str(size) for size in report.shape)
    merged = "" if report.views == "one" else f", views {report.views} merged by {report.merge},"
    print_text(
        f"{report.out}: {shape} {report.dtype} ({report.output}) in {report.seconds:.1f} s, "
        f"{_speed(report.voxels_per_second)}, {report.windows} windows{merged} on {report.device} in {report.precision}"
        + (" by OpenVINO" if report.engine == "openvino" else "")
    )
    if report.spread is not None and report.complete:
        print_text(f"{report.spread}: its standard deviation over {_merged_of(report)}")
    if report.blocks > 1:
        before = f", {report.resumed} of them before" if report.resumed else ""
        print_text(
            f"{report.blocks} blocks{before}{'' if report.complete else '; others are still at work on the rest'}"
        )


def options_of_predict(*names: str) -> Callable[[Any], Any]:
    """Return what gives another command these options, which mean the same there, in this order."""
    shared = {param.name: param for param in command.params}

    def give(function: Any) -> Any:
        for name in reversed(names):
            function.__click_params__.append(shared[name])
        return function

    return give


def _merged_of(report: PredictReport) -> str:
    networks = f"{len(report.members)} networks" if len(report.members) > 1 else ""
    return " and ".join(filter(None, [networks, "" if report.views == "one" else f"the views {report.views}"]))


def _draw(picture: str | None, report: PredictReport, *, volume: str, shard: str | None) -> str | None:
    """Draw what was asked for, or, of several blocks, beside an output on this disk; return where.

    What was not asked for replaces nothing, and is a note where it fails: the prediction is finished.
    """
    from connectomics_zoo.volumes.location import split_place

    place, _ = split_place(report.out)
    target = picture
    if picture is None and isinstance(place, Path) and report.blocks > 1:
        target = f"{place}.png"
    if target is None or not report.complete:
        return None
    exists = os.path.lexists(target)
    if exists and shard is not None and report.resumed == report.blocks:
        return None  # the share that finished the output has drawn it
    if exists and picture is None:
        note(f"{target} is there already and stays as it is: give --picture FILE.png to draw three slices")
        return None
    try:
        from connectomics_zoo.pictures.slices import draw_slices

        draw_slices(target, image=volume, made=report.out)
    except Exception as error:
        if picture is not None:
            raise
        note(f"three slices of it are not drawn in {target} ({reason(error)}): the prediction is finished without")
        return None
    return target


def _print_job_script(cluster: str | None) -> None:
    from connectomics_zoo.errors import SpecError

    if cluster is None:
        raise SpecError("--dry-run prints the script of a cluster's jobs, give --cluster FILE too.")
    from connectomics_zoo.blocks.slurm import job_script
    from connectomics_zoo.blocks.where import read_cluster

    print_text(job_script(read_cluster(Path(cluster))).rstrip())


def _speed(voxels_per_second: float) -> str:
    return f"{voxels_per_second / 1e6:.3g} Mvoxel/s"
