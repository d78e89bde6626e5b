"""`zoo fit [REF…]`: the largest patch and batch that a memory holds, counted without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._bytes import parse_bytes
from connectomics_zoo.cli._console import print_json, print_text
from connectomics_zoo.cli._references import complete_reference
from connectomics_zoo.cli._table import print_table

if TYPE_CHECKING:
    from connectomics_zoo.fit import Fit, FitReport

_EPILOG = """\b
Examples:
  zoo fit mednext-S mednext-L --memory 24GB
  zoo fit mednext-S --memory 24GB --anisotropy 6 --task affinities-12
  zoo fit mednext-S --memory 24GB --no-checkpointing --batch 2
  zoo fit mednext-S arch.kernel_size=5 --patch 64,96,96 --memory 8GiB
  zoo fit runs/my-run --predict --memory 8GB
"""

_PATCH = axis_numbers(int, counts=(1, 2, 3), example="128 or 32,128,128")


@click.command("fit", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("items", nargs=-1, metavar="[REF]... [KEY=VALUE]...", shell_complete=complete_reference)
@click.option("--memory", callback=parse_bytes, metavar="24GB", help="What there is [default: what is free here].")
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    help="A GPU, or a CPU, where MedNeXt takes far less [default: cuda with --memory, else what is here].",
)
@click.option("--train", "use", flag_value="train", default=True, help="Train, with AdamW (the default).")
@click.option("--predict", "use", flag_value="predict", help="Predict windows.")
@click.option(
    "--anisotropy",
    type=float,
    default=1.0,
    show_default=True,
    metavar="RATIO",
    help="Thickness of a section over the width of a pixel: the patch is so much shorter along z.",
)
@click.option("--patch", callback=_PATCH, metavar="N|Z,Y,X", help="Count for this patch [default: the largest].")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Patches of a batch [default: the most that fit].")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "16-mixed", "bf16-mixed"]),
    help="Arithmetic [default: the recipe's; on a CPU what it is trained in there].",
)
@click.option(
    "--checkpointing/--no-checkpointing", default=None, help="Recompute blocks, or do not [default: as the spec says]."
)
@click.option("--task", metavar="TASK", help="Gives channels and loss [default: those of REF].")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(items: tuple[str, ...], memory: int | None, as_json: bool, **options: Any) -> None:
    """Say which patch and batch of REF (every model without one) fit into a memory.

    What tensors take is counted, so that nothing is allocated and no GPU is needed: weights, gradients and the two
    averages of AdamW; what the forward pass keeps for the backward pass; what comes and goes at the worst moment, with
    a copy of the tensors of a convolution for libraries that work in a layout of their own; and the program itself.
    0.15 of the memory is left free, which is how far the count may be off. The batch is what fits of the largest patch.
    """
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.fit import fit
    from connectomics_zoo.specs.overrides import parse_overrides

    refs = [item for item in items if "=" not in item or Path(item).exists()]
    changes = parse_overrides([item for item in items if item not in refs])
    with show_progress("fit") as progress:
        report = fit(refs, changes, memory_bytes=memory, progress=progress, **options)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(report))
    else:
        _print(report)


def _print(report: FitReport) -> None:
    rows = [_cells(item) for item in report.fits]
    print_table(
        tuple(rows[0]),
        [tuple(row.values()) for row in rows],
        right=("batch", "GB", "weights", "kept", "working"),
        hide_first=("precision", "checkpointing", "weights", "working", "kept"),
    )
    on = "GPU" if report.device == "cuda" else "CPU"
    what = "a training step with AdamW" if report.use == "train" else "a window"
    none = " A patch of none: not even this model's smallest fits, or not the one that was given."
    print_text(
        f"GB that {what} takes on a {on} of {report.memory_bytes / 1e9:.1f} GB, counted; weights with gradients and "
        "AdamW's averages, what is kept for the backward pass, and what comes and goes."
        + (none if any(item.patch is None for item in report.fits) else ""),
        dim=True,
    )


def _cells(item: Fit) -> dict[str, str]:
    memory = item.memory
    return {
        "model": item.model,
        "patch (z, y, x)": "none" if item.patch is None else "×".join(map(str, item.patch)),
        "batch": str(item.batch),
        "GB": f"{memory.total / 1e9:.1f}",
        "weights": f"{memory.weights / 1e9:.1f}",
        "kept": f"{memory.kept / 1e9:.1f}",
        "working": f"{memory.working / 1e9:.1f}",
        "precision": item.precision,
        "checkpointing": {None: "-", True: "yes", False: "no"}[item.checkpointing],
    }
