"""`zoo new`: a new model from an existing one, measured and written to a file; or a package for a catalogue."""

from __future__ import annotations

from pathlib import Path

import click

from connectomics_zoo.catalog import PATH_VARIABLE
from connectomics_zoo.cli._console import note, print_line
from connectomics_zoo.cli._references import complete_model

_EPILOG = """\b
Examples:
  zoo new my-net --from mednext-S arch.kernel_size=5 input.channels=2
  zoo new tiny --from mednext-S arch.base_channels=8 training.patch_size='[32, 64, 64]'
  zoo new mednext-XL --from mednext-L arch.base_channels=64 --output my_zoo/specs/models/mednext
  zoo new --package acme
  zoo new --package acme code/acme-zoo
"""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False)
@click.option("--from", "base", metavar="REF", shell_complete=complete_model, help="Model to start from.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of the file NAME.yaml, or that file [default: the current folder].",
)
@click.option(
    "--package",
    metavar="CATALOGUE",
    help="Instead of a spec, write a package with a catalogue of this name, to NAME [default: CATALOGUE-zoo].",
)
def command(
    name: str | None, base: str | None, overrides: tuple[str, ...], output: Path | None, package: str | None
) -> None:
    """Write the complete spec of a new model NAME, version 1.0.0: REF with the overrides, its network measured.

    With --package it writes the folder NAME: a complete example of a package that adds models, tasks and builders, with
    its tests and CI.

    Overrides are arch.KEY, input.channels, outputs.channels (of all outputs), training.KEY, summary, family and
    source.KEY; legal sizes, outputs and counts follow from the network. The path of the file is printed.
    """
    if package is not None:
        _write_package(package, name, is_more=base is not None or bool(overrides) or output is not None)
        return
    if name is None:
        raise click.UsageError("Missing argument NAME: give the name of the new model, or --package CATALOGUE.")
    if base is None:
        raise click.UsageError("Missing option '--from': give the model to start from.")
    from connectomics_zoo.specs.overrides import parse_overrides

    changes = parse_overrides(overrides)
    from connectomics_zoo.authoring.new import new_spec
    from connectomics_zoo.specs.spec_file import spec_file, write_spec

    path = spec_file(name, output=output or Path())
    spec = new_spec(name, base=base, changes=changes)
    write_spec(spec, path=path)
    assert spec.expect is not None
    counts = spec.expect.parameters
    print_line(str(path))
    note(f"{name} has {counts.training:,} parameters in training and {counts.inference:,} in inference.")


def _write_package(package: str, folder: str | None, *, is_more: bool) -> None:
    if is_more:
        raise click.UsageError("--package takes a folder alone: leave --from, --output and overrides out.")
    from connectomics_zoo.authoring.package import package_name, write_package

    place = Path(folder or f"{package.replace('_', '-')}-zoo")
    write_package(package, place)
    print_line(str(place))
    note(
        f"install it (pip install --editable {place}), or try it where it is ({PATH_VARIABLE}="
        f"{place / package_name(package)} zoo list); its README says how to go on."
    )
