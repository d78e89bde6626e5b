"""`zoo train REF key=value…`: train a model on the user's volumes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import complete_reference, note

if TYPE_CHECKING:
    from connectomics_zoo.train import Progress

PLAIN_INTERVAL_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""


@click.command("train", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("ref", shell_complete=complete_reference)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--output", metavar="FOLDER", help="The run folder to make [default: a new one in runs/].")
@click.option("--resume", is_flag=True, help="Go on with the run folder REF.")
@click.option("--fast-dev-run", is_flag=True, help="Two steps and one validation patch; leaves nothing.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dry-run", is_flag=True, help="Print the complete run that would be trained, and stop.")
@click.option("--preview", metavar="PNG", help="Draw augmented patches with their labels and targets, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
def command(
    ref: str,
    overrides: tuple[str, ...],
    output: str | None,
    resume: bool,
    fast_dev_run: bool,
    device: str,
    dry_run: bool,
    preview: str | None,
    as_json: bool,
) -> None:
    """Train the experiment or model REF, with fields changed by KEY=VALUE.

    \b
    zoo train vnc-mito data.root=FOLDER training.max_steps=2000
    zoo train mednext-S task=mito data.train.image=a.h5:raw data.train.label=a.h5:mito
    zoo train vnc-mito data.root=FOLDER training.augmentation=anisotropic --preview patches.png
    zoo train mednext-S task=membrane init_from=runs/my-run data.train.image=… data.train.label=…
    zoo train runs/my-run --resume training.max_steps=40000
    """
    from connectomics_zoo.specs.overrides import parse_overrides

    changes = parse_overrides(overrides)
    if preview is not None:
        _preview(
            ref,
            changes,
            path=preview,
            resume=resume,
            others={
                "--output": output is not None,
                "--fast-dev-run": fast_dev_run,
                "--dry-run": dry_run,
                "--json": as_json,
            },
        )
        return
    if dry_run:
        from connectomics_zoo.cli._console import print_yaml
        from connectomics_zoo.files.yaml import dump_yaml
        from connectomics_zoo.train.resolve import continue_run, resolve_run

        run = continue_run(ref, changes) if resume else resolve_run(ref, changes)
        print_yaml(dump_yaml(run.model_dump(mode="json", exclude_none=True)))
        return
    from connectomics_zoo.train import train

    try:
        with _progress() as progress:
            report = train(
                ref,
                changes,
                output=output,
                resume=resume,
                fast_dev_run=fast_dev_run,
                device=device,
                progress=progress,
                tell=note,
            )
    except KeyboardInterrupt as stop:
        note(str(stop))
        raise
    if fast_dev_run:
        note(f"{report.steps} steps and a validation patch went well, nothing was kept.")
    elif as_json:
        click.echo(json.dumps({"folder": str(report.folder), "steps": report.steps, "metrics": report.metrics}))
    else:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in report.metrics.items() if name != "step")
        kept = f" (weights of step {int(report.metrics['step'])}: {scores})" if scores else ""
        click.echo(f"{report.folder}: {report.steps} steps{kept}")


def _preview(ref: str, changes: dict[str, Any], *, path: str, resume: bool, others: dict[str, bool]) -> None:
    """Draw patches, and refuse the options that `others` says are given too."""
    from connectomics_zoo.train import preview_patches

    given = [name for name, is_given in others.items() if is_given]
    if given:
        raise click.UsageError(f"--preview draws patches and stops, leave out {given[0]}.")
    preview_patches(ref, changes, path=path, resume=resume)
    click.echo(f"drew {path}")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Show step, loss, metrics and the time left on stderr: a bar in a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, text="")

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.max_steps, text=_describe(progress))

        yield show


def _plain_lines() -> Callable[[Progress], None]:
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS or progress.step == progress.max_steps:
            last = now
            click.echo(f"train: step {progress.step}/{progress.max_steps}, {_describe(progress)}", err=True)

    return show


def _describe(progress: Progress) -> str:
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    scores = "".join(f", {name} {value:.3f}" for name, value in progress.metrics.items())
    return f"loss {progress.loss:.3f}{scores}, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
