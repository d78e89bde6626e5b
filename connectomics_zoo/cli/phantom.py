"""`zoo phantom`: a small EM-like volume with its ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def _triple(number: type[int] | type[float]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Return the callback that reads three numbers (z, y, x), separated by commas."""

    def convert(ctx: click.Context, param: click.Parameter, value: str) -> tuple[Any, ...]:
        try:
            first, second, third = (number(part) for part in value.split(","))
        except ValueError:
            kind = "whole numbers" if number is int else "numbers"
            raise click.BadParameter(
                f"{value!r} is not three {kind} (z, y, x), write them like {param.default}.", ctx, param
            ) from None
        return first, second, third

    return convert


@click.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.h5")
@click.option(
    "--shape", callback=_triple(int), default="64,192,192", show_default=True, metavar="Z,Y,X", help="Voxels."
)
@click.option(
    "--voxel-size",
    "voxel_size_nm",
    callback=_triple(float),
    default="8,8,8",
    show_default=True,
    metavar="Z,Y,X",
    help="Edge lengths of a voxel in nanometres; thick sections make it anisotropic.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same volume.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5 if it exists.")
def command(
    out: Path,
    shape: tuple[int, int, int],
    voxel_size_nm: tuple[float, float, float],
    seed: int,
    overwrite: bool,
) -> None:
    """Make an EM phantom: cells with dark membranes, mitochondria with cristae, noise and blur.

    OUT.h5 gets the datasets raw, neurons, mitochondria (instance labels) and membranes.
    """
    from connectomics_zoo.errors import OutputError
    from connectomics_zoo.phantom import make_phantom, write_phantom

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists and is not overwritten, choose another name or add --overwrite.")
    write_phantom(out, make_phantom(shape=shape, seed=seed, voxel_size_nm=voxel_size_nm), overwrite=overwrite)
    click.echo(str(out))
