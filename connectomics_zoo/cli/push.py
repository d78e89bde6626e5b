"""`zoo push RUN TARGET`: a trained run to a repository on the Hub, or its weights beside a spec."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import note, print_json, print_line, print_yaml

if TYPE_CHECKING:
    from connectomics_zoo.push import PushReport

_EPILOG = """\b
Examples:
  zoo push runs/vnc-mito org/vnc-mito --dry-run      # look at runs/vnc-mito/push-preview/README.md
  zoo push runs/vnc-mito org/vnc-mito --private --tag v1
  zoo push runs/vnc-mito org/vnc-mito --write zoo/specs/models/mednext/mednext-S.yaml
  zoo push runs/vnc-mito zoo/specs/models/mednext/mednext-S.yaml --half
"""


@click.command(epilog=_EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("target", metavar="ORG/NAME|SPEC.yaml")
@click.option("--private", is_flag=True, help="The repository is, or becomes, closed to the public.")
@click.option("--tag", metavar="TAG", help="Tag for the commit, such as v1.")
@click.option("--name", metavar="WEIGHTS_TAG", help="Tag of the weights in the spec [default: the run's name].")
@click.option("--half", is_flag=True, help="Store the weights in float16: half the size.")
@click.option("--license", metavar="LICENSE", help="Licence of the weights [default: that of the data].")
@click.option("--attribution", metavar="TEXT", help="Whom to credit for the data [default: what its spec says].")
@click.option("--no-pictures", is_flag=True, help="Push no pictures: they show your data.")
@click.option("--message", metavar="TEXT", help="First line of the commit.")
@click.option("--dry-run", is_flag=True, help="Write what would be pushed into a folder, without network.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="That folder [default: RUN/push-preview]."
)
@click.option(
    "--write", "spec", type=click.Path(path_type=Path), metavar="SPEC.yaml", help="Write the entry into this spec."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    run: Path,
    target: str,
    private: bool,
    tag: str | None,
    name: str | None,
    half: bool,
    license: str | None,
    attribution: str | None,
    no_pictures: bool,
    message: str | None,
    dry_run: bool,
    output: Path | None,
    spec: Path | None,
    as_json: bool,
) -> None:
    """Push the run folder RUN to the repository ORG/NAME on the Hugging Face Hub: weights, spec, scores and card.

    With SPEC.yaml instead, the weights go beside that spec (a catalogue's, for example), and their entry into it.
    What does not pass zoo verify RUN --level weights is refused. The entry for the spec is printed.
    """
    ships = Path(target).suffix in (".yaml", ".yml")
    _check_options(
        ships=ships,
        dry_run=dry_run,
        output=output,
        remote={"--private": private, "--tag": tag, "--message": message, "--write": spec},
        no_pictures=no_pictures,
    )
    from connectomics_zoo.push import PREVIEW, PushRequest, preview, push, ship

    request = PushRequest(run, name=name, half=half, license=license, attribution=attribution)
    if ships:
        folder = (output or run / PREVIEW) if dry_run else None
        report = ship(request, Path(target), output=folder, notify=note)
    elif dry_run:
        report = preview(request, target, output=output, pictures=not no_pictures, notify=note)
    else:
        report = push(
            request, target, private=private, tag=tag, spec=spec, pictures=not no_pictures, message=message, notify=note
        )
    _print(report, as_json=as_json)


def _check_options(
    *, ships: bool, dry_run: bool, output: Path | None, remote: dict[str, Any], no_pictures: bool
) -> None:
    """Refuse options that would have no effect."""
    given = [option for option, value in remote.items() if value]
    if ships and (given or no_pictures):
        raise click.UsageError(f"{(given or ['--no-pictures'])[0]} is for repositories, and the target is a spec file.")
    if dry_run and given:
        raise click.UsageError(f"{given[0]} has no effect with --dry-run: leave out one of them.")
    if output is not None and not dry_run:
        raise click.UsageError("--output is the folder of --dry-run: give both.")


def _print(report: PushReport, *, as_json: bool) -> None:
    from connectomics_zoo.files.yaml import dump_yaml

    if report.folder is not None:
        note(f"{report.folder} has {', '.join(report.files)}")
    elif report.commits == 0:
        note("all of it was there already, nothing was committed")
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print_yaml(dump_yaml({"weights": {report.tag: report.entry}}))
    if report.reference is not None:
        print_line(f"# {report.reference}")
