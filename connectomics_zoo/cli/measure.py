"""`zoo measure LABELS OUT`: sizes, shapes, intensities and contacts of objects, as a table."""

from __future__ import annotations

import click

from connectomics_zoo.cli._axes import axis_numbers
from connectomics_zoo.cli._console import note, print_json, print_text

_EPILOG = """\b
Examples:
  zoo measure neurons.h5:main neurons.csv
  zoo measure mito.zarr mito.parquet --intensity raw.h5:raw --contacts neurons.zarr
  zoo measure neurons.h5:main neurons.csv --contacts neurons.h5:main   # which neurons touch
"""


@click.command("measure", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("labels")
@click.argument("out")
@click.option("--intensity", metavar="RAW", help="Measure mean and standard deviation of this volume in each object.")
@click.option(
    "--contacts",
    metavar="OTHER",
    help="Measure contacts with the objects of this label volume, or of LABELS itself; written to OUT_contacts.",
)
@click.option(
    "--voxel-size-nm",
    "--voxel-size",
    "voxel_size_nm",
    metavar="Z,Y,X",
    callback=axis_numbers(float, example="30,8,8"),
    help="Voxel size in nm, where the volumes do not say it.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT and OUT_contacts if they exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    labels: str,
    out: str,
    intensity: str | None,
    contacts: str | None,
    voxel_size_nm: tuple[float, float, float] | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure every object of LABELS, block by block, and write a row for each to OUT (.csv or .parquet).

    Columns are id, voxels, volume_nm3, surface_nm2, sphericity, the centre in nm, the box in voxels (first inside, stop
    behind), and whether it is at_border: there the surface lacks what the volume cuts, and sphericity is empty. Centres
    count from the centre of the first voxel, or where LABELS says where that lies, in its world. The surface is
    estimated from crossings of lines in thirteen directions (Crofton's formula).

    A contact is the part of an object's surface beyond which there is an object of OTHER; OUT_contacts has a row for
    each pair, with the voxels that both have.
    """
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.measure import measure

    with show_progress("measure") as progress:
        report = measure(
            labels,
            out,
            intensity=intensity,
            contacts=contacts,
            voxel_size_nm=voxel_size_nm,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json(report.summary())
        return
    print_text(f"{report.out}: {report.objects} objects of {report.labels}")
    if report.contacts_out is not None:
        print_text(f"{report.contacts_out}: {report.pairs} pairs with {report.contacts}")
    if report.objects == 0:
        note("there is no object, only background")
