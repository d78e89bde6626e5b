"""`zoo bench [REF…]`: speed, accuracy and peak memory of networks on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from connectomics_zoo.cli._console import note, print_json, print_line, print_text
from connectomics_zoo.cli._references import complete_model
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.errors import SpecError

if TYPE_CHECKING:
    from connectomics_zoo.bench import Measurement, ModelBench

DEFAULT = "mednext-S"
"""What is measured where nothing is named: the network that most people train."""

BUSY_LOAD = 0.5
"""Load per core beyond which times mean little."""

HEADERS = ("mode", "variant", "precision", "ms", "min", "max", "kvoxel/s", "GFLOP/s", "speed-up", "error", "peak MB")

BUSY_HEADERS = ("busy ms", "busy/idle")
"""With `--busy`: the median beside other processes, and how many times as long that is."""

_EPILOG = """\b
Examples:
  zoo bench
  zoo bench mednext-S mednext-B --size 64,96,96 --plot bench.png
  zoo bench mednext-S --busy 2 --no-training --no-memory
  zoo bench mednext-S arch.kernel_size=5 --no-training --precision float32 --json
"""


def parse_size(context: click.Context | None, parameter: click.Parameter | None, text: str) -> tuple[int, ...]:
    """Return the numbers of `64` or `64,96,96`.

    Raises:
        SpecError: it is neither.
    """
    from connectomics_zoo.schema.limits import MAX_EDGE

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 and 1 <= int(part) <= MAX_EDGE for part in parts):
        raise SpecError(
            f"--size {text!r} is no size, give one number from 1 to {MAX_EDGE} or one for each axis: 64 or 64,96,96."
        )
    return tuple(map(int, parts))


@click.command("bench", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("items", nargs=-1, metavar="[REF]... [KEY=VALUE]...", shell_complete=complete_model)
@click.option(
    "--size", default="64", show_default=True, callback=parse_size, metavar="N|Z,Y,X", help="Input, in voxels."
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["float32", "bfloat16"]),
    multiple=True,
    help="May be repeated [default: what the device computes in by itself].",
)
@click.option("--training/--no-training", default=True, show_default=True, help="Measure training steps, too.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory, too.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Timed rounds.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of torch on the CPU [default: torch's own].")
@click.option(
    "--busy", type=click.IntRange(0, 1024), default=0, metavar="N", help="Measure again beside N busy processes."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Also draw the speed-ups.")
def command(
    items: tuple[str, ...],
    size: tuple[int, ...],
    precisions: tuple[str, ...],
    training: bool,
    memory: bool,
    rounds: int,
    device: str,
    threads: int | None,
    busy: int,
    as_json: bool,
    plot: str | None,
) -> None:
    """Measure the networks REF (mednext-S without one), with the overrides KEY=VALUE, on this machine.

    Networks have random weights. The plain implementation in eager float32 and bfloat16 autocast, and in both what zoo
    predict and zoo.load use by default, take turns in one process; a size that is not legal is raised to the next one
    that is. A training step is forward at all scales, loss and backward, without the optimiser, and counts as three
    forward passes in GFLOP/s. The error is the relative L2 distance to plain float32, of the output or of all
    gradients. Peak memory is by how much a fresh process that has network and input grows in its first step. With
    --busy, times are measured once more beside other work, as on a laptop or a login node.
    """
    from connectomics_zoo.specs.overrides import override_model, parse_overrides

    refs = [item for item in items if "=" not in item or Path(item).exists()] or [DEFAULT]
    changes = parse_overrides([item for item in items if item not in refs])
    specs = [override_model(ref, changes) for ref in refs]
    from connectomics_zoo.bench import bench
    from connectomics_zoo.bench.plot import check_target, draw_speed_ups
    from connectomics_zoo.cli._progress import show_progress

    if plot is not None:
        check_target(plot)
    _warn_if_busy()
    with show_progress("bench") as progress:
        report = bench(
            specs,
            size=size,
            precisions=precisions,  # type: ignore[arg-type]  # click has checked them
            modes=("inference", "training") if training else ("inference",),
            rounds=rounds,
            device=device,
            threads=threads,
            memory="measure" if memory else "skip",
            busy=busy,
            progress=progress,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print_text(report.machine.describe())
        for model in report.models:
            _print_model(model, busy=busy > 0)
    if plot is not None:
        draw_speed_ups([report], plot)
        note(f"drew {plot}")


def _warn_if_busy() -> None:
    from connectomics_zoo.bench.machine import load_average
    from connectomics_zoo.network.threads import usable_cores

    load, cores = load_average(), usable_cores()
    if load is not None and load > BUSY_LOAD * cores:
        note(
            f"this machine is busy (load {load:.1f} on {cores} core(s)) and the times will be too long, "
            "measure when it idles."
        )


def _print_model(model: ModelBench, *, busy: bool) -> None:
    counts = f"{model.parameters_training:,} parameters in training, {model.parameters_inference:,} in inference"
    size = "×".join(map(str, model.input_shape))
    print_line()
    print_text(f"{model.model}: {counts}; input {size}, {model.flops / 1e9:.1f} GFLOP")
    headers = HEADERS + (BUSY_HEADERS if busy else ())
    rows = [cells(item) + (busy_cells(item) if busy else ()) for item in model.measurements]
    hidden = ("min", "max", "GFLOP/s", "kvoxel/s") if busy else ("min", "max")
    print_table(headers, rows, right=headers[3:], gap=1, hide_first=hidden)


def cells(item: Measurement) -> tuple[str, ...]:
    """Return a row of the table, in the order of `HEADERS`."""
    peak = "-" if item.peak_memory_bytes is None else f"{item.peak_memory_bytes / 1e6:.0f}"
    return (
        item.mode,
        item.implementation,
        item.precision,
        f"{item.seconds * 1e3:.1f}",
        f"{item.seconds_shortest * 1e3:.1f}",
        f"{item.seconds_longest * 1e3:.1f}",
        f"{item.voxels_per_second / 1e3:.0f}",
        f"{item.gflops_per_second:.1f}",
        f"{item.speed_up:.2f}",
        f"{item.relative_error:.1e}",
        peak,
    )


def busy_cells(item: Measurement) -> tuple[str, ...]:
    """Return the end of a row, in the order of `BUSY_HEADERS`."""
    assert item.seconds_busy is not None
    return (f"{item.seconds_busy * 1e3:.1f}", f"{item.seconds_busy / item.seconds:.2f}")
