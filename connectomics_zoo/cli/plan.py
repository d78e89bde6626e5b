"""`zoo plan RUN VOLUME [OUT]`: what a prediction takes, and the script or file to run it on a cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import note, print_json
from connectomics_zoo.cli._table import print_facts
from connectomics_zoo.cli.predict import options_of_predict
from connectomics_zoo.errors import SpecError

if TYPE_CHECKING:
    from connectomics_zoo.predict.forecast import PlanReport
    from connectomics_zoo.schema.cluster import ClusterSpec

_PREDICTION = (
    "others",
    "spread",
    "window",
    "overlap",
    "views",
    "merge",
    "intensity_range",
    "voxel_size_nm",
    "device",
    "engine",
    "precision",
    "batch_size",
    "output",
    "dtype",
    "region",
    "mask",
    "frozen",
)
"""Options of `zoo predict` that decide what is predicted; they mean the same here."""

_ALLOWANCE = 1.5
"""How much more time a job asks for than is planned: nodes differ, and disks are shared."""

_LONGEST_S = 24 * 3600
"""Seconds that a job asks for at most; what takes longer goes on in the next one."""

_EPILOG = """\b
Examples:
  zoo plan mednext-S.vnc-mito volume.zarr --workers 4
  zoo plan RUN volume.zarr out.zarr --shard-count 64 --script predict.sbatch --cluster lab.yaml
  zoo plan RUN volume.zarr --gpus 8 --voxels-per-second 4e6 --write-cluster lab.yaml
"""


@click.command("plan", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.argument("volume")
@click.argument("out", required=False)
@click.option("--workers", type=click.IntRange(1, 10_000), metavar="N", help="N processes share the blocks.")
@click.option("--gpus", type=click.IntRange(1, 10_000), metavar="N", help="N GPUs, each with a process, share them.")
@click.option(
    "--shard-count",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="N jobs of an array share them [default: workers].",
)
@click.option(
    "--voxels-per-second",
    type=float,
    metavar="X",
    help="Speed of one of them, as zoo predict says it [default: two windows are timed here].",
)
@click.option(
    "--script", type=click.Path(dir_okay=False), metavar="FILE", help="Write an sbatch script that makes OUT."
)
@click.option("--cluster", metavar="FILE", help="Cluster file whose partition, account and so on the script takes.")
@click.option(
    "--write-cluster",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write a cluster file for zoo predict --cluster, to be completed.",
)
@options_of_predict(*_PREDICTION)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: str,
    volume: str,
    out: str | None,
    workers: int | None,
    gpus: int | None,
    shard_count: int | None,
    voxels_per_second: float | None,
    script: str | None,
    cluster: str | None,
    write_cluster: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Say what zoo predict RUN VOLUME OUT takes: blocks, windows, memory, bytes and time; nothing is written.

    The time follows from two windows that are timed here, or from --voxels-per-second: a GPU node is planned for on a
    GPU node, or with the speed that it had before. With --script, a job array of SLURM is written that makes OUT: a job
    that reaches its limit goes on in another turn.
    """
    if workers is not None and gpus is not None:
        raise SpecError("workers and gpus say twice who shares the blocks, give one of them.")
    if script is not None and out is None:
        raise SpecError(f"the script {script} has to say what it makes, give OUT too.")
    from connectomics_zoo.blocks.where import Shard, Where, read_cluster
    from connectomics_zoo.predict.forecast import plan_prediction
    from connectomics_zoo.predict.request import Request

    spec = None if cluster is None else read_cluster(Path(cluster))
    if gpus is not None and spec is not None and spec.gpus == 0:
        raise SpecError(f"--gpus {gpus} are planned, and a job of {cluster} has none: say in the file how many it has.")
    sharing = workers or gpus or (spec.jobs * spec.workers if spec is not None else None)
    count = shard_count or (sharing if script is not None else None)
    where = Where(shard=Shard(0, count or 1)) if count is not None or sharing is None else Where(workers=sharing)
    request = Request(run=run, volume=volume, out=out or "planned.zarr", **asked)
    at_once = min(sharing or count or 1, count or sharing or 1)
    report = plan_prediction(request, where=where, workers=at_once, voxels_per_second=voxels_per_second)
    if script is not None:
        words = ["zoo", "predict", run, volume, str(out), *_given(ctx)]
        _write_script(script, words, report, count=count or 1, at_once=at_once, gpus=gpus, spec=spec)
    if write_cluster is not None:
        _write_cluster(write_cluster, report, jobs=sharing or 1, gpus=gpus)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        print_facts(facts_of(report))


def _given(ctx: click.Context) -> list[str]:
    """Return the options of `zoo predict` as they were given."""
    words: list[str] = []
    for param in ctx.command.params:
        if (
            param.name not in _PREDICTION
            or ctx.get_parameter_source(param.name) != click.core.ParameterSource.COMMANDLINE
        ):
            continue
        value = ctx.params[param.name]
        if isinstance(param, click.Option) and param.multiple:
            words += [word for one in value for word in (param.opts[0], one)]
            continue
        words.append(param.opts[0])
        if isinstance(value, tuple):
            words.append(",".join(f"{number:g}" for number in value))
        elif not isinstance(value, bool):
            words.append(str(value))
    return words


def _walltime(seconds: float) -> str:
    from connectomics_zoo.schema.cluster import walltime_text

    return walltime_text(min(_LONGEST_S, max(600.0, _ALLOWANCE * seconds)))


def _memory_mb(report: PlanReport) -> int:
    """Return the memory of a job: what is planned, and half as much again for what libraries take at times."""
    return -(-int(report.memory_bytes * 1.5) // 2**20) + 1024


def _write_script(
    path: str,
    words: list[str],
    report: PlanReport,
    *,
    count: int,
    at_once: int,
    gpus: int | None,
    spec: ClusterSpec | None,
) -> None:
    from connectomics_zoo.blocks.slurm_array import Resources, array_script
    from connectomics_zoo.files.atomic import write_text
    from connectomics_zoo.network.threads import usable_cores
    from connectomics_zoo.schema.cluster import walltime_seconds
    from connectomics_zoo.schema.progress import duration

    if spec is not None:
        resources = Resources(cores=spec.cores, memory_mb=spec.memory_mb, gpus=spec.gpus, walltime=spec.walltime)
    else:
        share = report.seconds * at_once / count
        resources = Resources(
            cores=usable_cores(), memory_mb=_memory_mb(report), gpus=1 if gpus else 0, walltime=_walltime(share)
        )
    if report.block_seconds > walltime_seconds(resources.walltime) / 2:
        note(
            f"a block takes about {duration(report.block_seconds)} and a job {resources.walltime}, in which it may not "
            "end: give the jobs more time, or make smaller blocks by a larger --shard-count."
        )
    write_text(Path(path), array_script(words, count=count, at_once=at_once, resources=resources, cluster=spec))
    note(f"wrote {path}, submit it with sbatch {path}")


def _write_cluster(path: str, report: PlanReport, *, jobs: int, gpus: int | None) -> None:
    from connectomics_zoo.files.atomic import write_text
    from connectomics_zoo.files.yaml import dump_yaml
    from connectomics_zoo.network.threads import usable_cores
    from connectomics_zoo.schema.cluster import ClusterSpec

    spec = ClusterSpec(
        schema_version=1,
        kind="slurm",
        jobs=jobs,
        cores=usable_cores(),
        memory=f"{-(-_memory_mb(report) // 1024)}GB",
        walltime=_walltime(report.seconds),
        gpus=1 if gpus else 0,
    )
    write_text(Path(path), dump_yaml(spec.model_dump(mode="json", exclude_unset=True)))
    note(f"wrote {path}, add partition and account where your SLURM wants them, and give it to zoo predict --cluster")


def facts_of(report: PlanReport) -> dict[str, str]:
    """Return the rows of the table."""
    from connectomics_zoo.schema.progress import duration

    edges = [" x ".join(map(str, item)) for item in (report.shape, report.window, report.block, report.shard)]
    shape, window, block, shard = edges
    measured = f"measured on {report.device} in {report.precision}" if report.is_measured else "as given"
    gpu = "" if report.gpu_memory_bytes is None else f", and {_bytes(report.gpu_memory_bytes)} of the GPU's"
    program = "" if report.is_measured else ", the network not included"
    return {
        "output": f"{shape} {report.dtype}",
        "windows": f"{report.windows:,} of {window}, {report.border_percent:g} % more than without blocks",
        "blocks": f"{report.blocks:,} of {block}",
        "files": f"{report.files:,} shards of {shard}",
        "read": f"{_bytes(report.read_bytes)}, uncompressed",
        "written": f"{_bytes(report.written_bytes)}, uncompressed",
        "memory a worker": f"{_bytes(report.memory_bytes)}{program}{gpu}",
        "speed a worker": f"{report.voxels_per_second / 1e6:.3g} Mvoxel/s, {measured}",
        "a block": duration(report.block_seconds),
        f"{report.workers} worker(s)": duration(report.seconds),
    }


def _bytes(count: int) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"
