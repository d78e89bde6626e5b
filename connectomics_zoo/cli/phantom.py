"""`zoo phantom`: a small EM-like volume with its ground truth."""

from __future__ import annotations

from pathlib import Path

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import print_line


@click.command()
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.h5")
@click.option(
    "--shape",
    callback=axis_numbers(int, example="64,192,192"),
    default="64,192,192",
    show_default=True,
    metavar="Z,Y,X",
    help="Voxels.",
)
@click.option(
    "--voxel-size-nm",
    "--voxel-size",
    "voxel_size_nm",
    callback=axis_numbers(float, example="8,8,8"),
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
    print_line(str(out))
