"""`zoo new`: a new model from an existing one, measured and written to a file."""

from __future__ import annotations

from pathlib import Path

import click

from connectomics_zoo.cli._console import note, print_line
from connectomics_zoo.cli._references import complete_model

_EPILOG = """\b
Examples:
  zoo new my-net --from mednext-S arch.kernel_size=5 input.channels=2
  zoo new tiny --from mednext-S arch.base_channels=8 training.patch_size='[32, 64, 64]'
  zoo new mednext-XL --from mednext-L arch.base_channels=64 --output my_zoo/specs/models/mednext
"""


@click.command(epilog=_EPILOG)
@click.argument("name")
@click.option(
    "--from", "base", required=True, metavar="REF", shell_complete=complete_model, help="Model to start from."
)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=".",
    metavar="PATH",
    help="Folder of the file NAME.yaml, or that file [default: the current folder].",
)
def command(name: str, base: str, overrides: tuple[str, ...], output: Path) -> None:
    """Write the complete spec of a new model NAME, version 1.0.0: REF with the overrides, its network measured.

    Overrides are arch.KEY, input.channels, outputs.channels (of all outputs), training.KEY, summary, family and
    source.KEY; legal sizes, outputs and counts follow from the network. The path of the file is printed.
    """
    from connectomics_zoo.specs.overrides import parse_overrides

    changes = parse_overrides(overrides)
    from connectomics_zoo.authoring.new import new_spec
    from connectomics_zoo.specs.spec_file import spec_file, write_spec

    path = spec_file(name, output=output)
    spec = new_spec(name, base=base, changes=changes)
    write_spec(spec, path=path)
    assert spec.expect is not None
    counts = spec.expect.parameters
    print_line(str(path))
    note(f"{name} has {counts.training:,} parameters in training and {counts.inference:,} in inference.")
