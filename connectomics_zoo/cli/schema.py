"""`zoo schema`: prints the JSON Schema of a kind of spec."""

from __future__ import annotations

import click

from connectomics_zoo.catalog import SpecKind
from connectomics_zoo.cli._console import print_line
from connectomics_zoo.schema.json_schema import TYPES, schema_text


@click.command()
@click.argument("kind", type=click.Choice(tuple(TYPES)), metavar="KIND")
def command(kind: SpecKind) -> None:
    """Print the JSON Schema (draft 2020-12) of a spec of KIND: model, task or experiment.

    A YAML file names it for editors in its first line: # yaml-language-server: $schema=PATH
    """
    print_line(schema_text(kind).removesuffix("\n"))
