"""`zoo lock REF…`: write down exactly which weights a project uses."""

from __future__ import annotations

from pathlib import Path

import click

from connectomics_zoo.cli._console import note
from connectomics_zoo.cli._references import complete_model
from connectomics_zoo.cli._table import print_table

_EPILOG = """\b
Examples:
  zoo lock mednext-S.vnc-mito hf://org/name@main
  zoo lock                                 # what is in zoo.lock, anew
  zoo lock --check && zoo pull --frozen    # in CI
"""


@click.command(epilog=_EPILOG)
@click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_model)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where the lock file would change.")
def command(refs: tuple[str, ...], check: bool) -> None:
    """Look up the weights that each REF means, and add commit, size and sha256 to the lock file, zoo.lock.

    REF is a model (its first weights), name.tag, or hf://org/repo, with a branch or tag if you like: the commit that it
    is now is written down. Without REF, all that the lock file has is looked up anew.
    """
    from connectomics_zoo.errors import CheckFailedError
    from connectomics_zoo.weights.lock import is_news, lock_weights
    from connectomics_zoo.weights.lock_file import WEIGHTS_LOCK, read_weights_lock, write_weights_lock

    file = Path(WEIGHTS_LOCK)
    before = read_weights_lock(file).weights if file.exists() or check or not refs else {}
    found = [lock_weights(ref) for ref in (refs or before)]
    changed = [item.name for item in found if is_news(item, before.get(item.name))]
    if check and changed:
        raise CheckFailedError(
            f"{file}: {len(changed)} of {len(found)} would change ({', '.join(changed[:3])}), write it with zoo lock."
        )
    after = {**before, **{item.name: item.weights for item in found}}
    if not check:
        write_weights_lock(after, file)
    rows = [
        (
            name,
            f"{weights.repo}@{weights.revision[:12]}…" if weights.repo and weights.revision else "-",
            weights.file,
            f"{weights.sha256[:12]}…",
        )
        for name, weights, _ in found
    ]
    print_table(("weights", "repository", "file", "sha256"), rows)
    note(f"{file}: {len(after)} weights, {len(changed)} changed.")
