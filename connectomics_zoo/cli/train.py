"""`zoo train REF key=value…`: train a model on the user's volumes."""

from __future__ import annotations

from typing import Any

import click

from connectomics_zoo.cli._console import note, print_json, print_line, print_text, print_yaml
from connectomics_zoo.cli._references import complete_reference


@click.command("train", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("ref", shell_complete=complete_reference)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option(
    "--add",
    multiple=True,
    metavar="VOLUME",
    help="Another volume to train on: image=FILE:DATASET,label=FILE:DATASET[,z=0:4], or a YAML file with these.",
)
@click.option("--output", metavar="FOLDER", help="The run folder to make [default: a new one in runs/].")
@click.option("--resume", is_flag=True, help="Go on with the run folder REF.")
@click.option("--fast-dev-run", is_flag=True, help="Two steps and one validation patch; leaves nothing.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dry-run", is_flag=True, help="Print the complete run that would be trained, and stop.")
@click.option("--preview", metavar="PNG", help="Draw augmented patches with their labels and targets, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    ref: str,
    overrides: tuple[str, ...],
    add: tuple[str, ...],
    output: str | None,
    resume: bool,
    fast_dev_run: bool,
    device: str,
    dry_run: bool,
    preview: str | None,
    as_json: bool,
) -> None:
    """Train the experiment or model REF, with fields changed by KEY=VALUE.

    Where REF means trained weights (name.tag, a run folder), a new run starts from them with their recipe.

    \b
    zoo train vnc-mito data.root=FOLDER training.max_steps=2000
    zoo train mednext-S task=mito data.train.image=a.h5:raw data.train.label=a.h5:mito
    zoo train vnc-mito data.root=FOLDER training.augmentation=anisotropic --preview patches.png
    zoo train mednext-S.vnc-mito data.train.image=a.h5:raw data.train.label=a.h5:mito
    zoo train runs/my-run --add image=b.h5:raw,label=b.h5:mito
    zoo train runs/my-run --resume training.max_steps=40000
    """
    from connectomics_zoo.specs.overrides import parse_overrides

    changes = parse_overrides(overrides)
    if preview is not None:
        _preview(
            ref,
            changes,
            path=preview,
            add=add,
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
        from connectomics_zoo.train import complete_spec

        print_yaml(complete_spec(ref, changes, add=add, resume=resume, notify=note))
        return
    from connectomics_zoo.cli._progress import show_progress
    from connectomics_zoo.train import train

    with show_progress("train") as progress:
        report = train(
            ref,
            changes,
            add=add,
            output=output,
            resume=resume,
            fast_dev_run=fast_dev_run,
            device=device,
            progress=progress,
            notify=note,
        )
    if fast_dev_run:
        note(f"{report.steps} steps and a validation patch went well, nothing was kept.")
    elif as_json:
        start = {"start": report.start} if report.start else {}
        print_json({"folder": str(report.folder), "steps": report.steps, "metrics": report.metrics, **start})
    else:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in report.metrics.items() if name != "step")
        first = "; ".join(["", *(f"{value:.4f} at the start" for value in list(report.start.values())[:1])])
        kept = f" (weights of step {int(report.metrics['step'])}: {scores}{first})" if scores else ""
        print_text(f"{report.folder}: {report.steps} steps{kept}")


def _preview(
    ref: str, changes: dict[str, Any], *, path: str, add: tuple[str, ...], resume: bool, others: dict[str, bool]
) -> None:
    """Draw patches, and refuse the options that `others` says are given too."""
    from connectomics_zoo.train import preview_patches

    given = [name for name, is_given in others.items() if is_given]
    if given:
        raise click.UsageError(f"--preview draws patches and stops, leave out {given[0]}.")
    preview_patches(ref, changes, path=path, add=add, resume=resume)
    print_line(f"drew {path}")
