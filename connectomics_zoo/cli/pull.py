"""`zoo pull REF…`: bring trained weights onto this machine, checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from connectomics_zoo.cli._console import print_json, print_line
from connectomics_zoo.cli._references import complete_model

_EPILOG = """\b
Examples:
  zoo pull mednext-S.vnc-mito
  zoo pull hf://org/name                   # prints the pinned reference
  zoo pull hf://org/name@REVISION --to my-weights && rsync -a my-weights cluster:
  zoo pull --frozen                        # everything that zoo.lock has
"""


@click.command(epilog=_EPILOG)
@click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_model)
@click.option("--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Make this folder of spec and weights.")
@click.option("--frozen", is_flag=True, help="Pull only what the lock file zoo.lock has; without REF, all of it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(refs: tuple[str, ...], to: Path | None, frozen: bool, as_json: bool) -> None:
    """Download the weights that REF means, check them, and print their pinned reference and place.

    REF is a model (its first weights), name.tag, or hf://org/repo@revision. They go to the cache of the Hugging Face
    client (HF_HOME), where zoo.load and zoo predict find them without network.
    """
    if to is not None and len(refs) != 1:
        raise click.UsageError(f"--to makes one folder, and there are {len(refs)} references: give one.")
    from connectomics_zoo.pull.run import pull
    from connectomics_zoo.weights.lock_file import WEIGHTS_LOCK, read_weights_lock

    if not refs and not frozen:
        raise click.UsageError("nothing to pull: name a model, name.tag or hf://org/repo, or give --frozen.")
    wanted = refs or tuple(read_weights_lock(Path(WEIGHTS_LOCK)).weights)
    reports = [pull(ref, to=to, frozen=frozen) for ref in wanted]
    if as_json:
        print_json([dataclasses.asdict(report) for report in reports])
        return
    for report in reports:
        facts = [f"sha256 {report.sha256[:12]}…", f"{report.size / 1e6:.1f} MB", report.license or "licence unknown"]
        print_line(f"{report.ref}\n  {report.path}\n  {', '.join(facts)}")
