"""`zoo verify`: proves what the specs declare, and names each declaration that does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import click

from connectomics_zoo.cli._console import note, print_json, print_line, print_text
from connectomics_zoo.cli._references import complete_model
from connectomics_zoo.cli._table import print_table
from connectomics_zoo.errors import CheckFailedError, OutputError
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.verify import LEVELS, Check, Level, VerifyReport, verify

_EPILOG = """\b
Levels, each with the ones before it:
  schema   reads: pydantic, JSON Schema, names, versions, lock (imports no torch)
  build    builds without memory: parameters, fingerprint, FLOPs, shapes of all scales
  forward  runs forward and backward: legal sizes, gradients, the recorded numbers
  weights  loads the declared weights: digest, keys, shapes, the recorded numbers; with --data also the scores

\b
Examples:
  zoo verify
  zoo verify 'mednext*' --level build
  zoo verify my-models/my-net.yaml runs/mito --json
  zoo verify mednext-S --level weights --data ../data/vnc
"""


@click.command(epilog=_EPILOG)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_model)
@click.option("--level", type=click.Choice(LEVELS), default="forward", show_default=True, help="How deep to look.")
@click.option(
    "--data",
    multiple=True,
    metavar="FOLDER",
    help="Measure declared scores again on the volumes in it, at level weights; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write JUnit XML.")
def command(patterns: tuple[str, ...], level: Level, data: tuple[str, ...], as_json: bool, junit: Path | None) -> None:
    """Prove what the specs declare, of the models that match PATTERN (all without one).

    PATTERN is a wildcard over names of models or weights ('mednext-S.*'), the name of a model or family, name@version,
    name.weights, a YAML file or a run folder.
    Exits with 1 when a check failed.
    """
    from connectomics_zoo.cli._progress import show_progress

    if junit is not None:
        _require_writable(junit)
    with show_progress("verify") as progress:
        report = verify(patterns, level=level, data=data, progress=progress)
    if junit is not None:
        write_text(junit, report.to_junit())
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report)
    failed = [model for model in report.models if not model.passed]
    if failed and all(check.skipped for model in failed for check in model.failures):
        raise CheckFailedError("no declared score was measured again, for the reasons above.")
    if failed:
        count = sum(len(model.failures) for model in failed)
        names = ", ".join(model.source for model in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise CheckFailedError(f"{count} check(s) failed in {names}{more}: mend the spec, or give it a new version.")


def _print_report(report: VerifyReport) -> None:
    _print_table(report)
    for model in report.models:
        if not model.passed:
            print_line(f"\n{model.source}")
        found: dict[tuple[str, ...], list[Check]] = {}
        for check in model.failures:
            found.setdefault(_finding(check), []).append(check)
        for check in model.measured:
            if check.ok:
                print_text(f"{model.source}: {check.describe()}")
        for check in model.unmeasured:
            if check.ok:
                note(f"{model.source}: {check.describe()}")
        for first, *again in found.values():
            deeper = sorted({check.level for check in again} - {first.level}, key=LEVELS.index)
            also = f" (and at level {', '.join(deeper)})" if deeper else ""
            print_text(f"  {first.level}: {first.describe()}{also}")


def _finding(check: Check) -> tuple[str, ...]:
    """What makes two failures the same to a reader: deeper levels find again what shallow ones found."""
    values = (str(check.declared), str(check.measured))
    return (check.path, *values, "" if check.measured is not None else check.note)


def _print_table(report: VerifyReport) -> None:
    headers, rows = report.table()
    failed = [index for index, model in enumerate(report.models) if not model.passed]
    print_table(headers, rows, right=("checks", "seconds"), bold=failed)


def _require_writable(path: Path) -> None:
    """Refuse at once what could not be written after minutes of work."""
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder, make it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written, give a writable place.")
