"""`zoo record`: write what nobody types into the catalogues: `expect` of each spec, the lock and the JSON Schemas."""

from __future__ import annotations

import click

from connectomics_zoo.cli._console import note, print_line
from connectomics_zoo.errors import CheckFailedError


@click.command("record", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if anything would be written.")
@click.option("--relock", is_flag=True, help="Let released specs change: only before anybody has the release.")
@click.option(
    "--costs", is_flag=True, help="Also count memory and receptive field of releases that lack them: minutes."
)
@click.option("--exports", is_flag=True, help="Also try every format of zoo export that was not tried yet: minutes.")
def command(patterns: tuple[str, ...], check: bool, relock: bool, costs: bool, exports: bool) -> None:
    """Measure the models that match PATTERN (all without one) and record what is new.

    A spec of a new name@version is added to its catalogue's lock. One that is there is never changed, unless
    --relock is given; every change is printed.
    """
    from connectomics_zoo.authoring.record import plan
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.files.changes import write_changes

    with show_progress("record") as progress:
        planned = plan(patterns, relock=relock, costs=costs, exports=exports, progress=progress)
    if not check:
        write_changes(planned.changes)
    for change in planned.changes:
        for reason in change.reasons:
            print_line(f"{change.path}: {reason}")
    for refusal in planned.refused:
        note(refusal)
    done = "would change" if check else "changed"
    summary = f"{len(planned.changes)} file(s) {done}, {len(planned.refused)} change(s) refused."
    if planned.refused or (check and planned.changes):
        raise CheckFailedError(summary)
    note(summary)
