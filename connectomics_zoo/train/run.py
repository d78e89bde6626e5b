"""`train`: checks all that can be checked without torch, which takes seconds to import, and then runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import OutputError, SpecError, UnknownNameError
from connectomics_zoo.runs.claim import claim_new, claim_resumed
from connectomics_zoo.runs.folder import run_text
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.train.classes import look_for_classes
from connectomics_zoo.train.inspection import warn_of_labels, warn_of_overlap, warn_of_padding
from connectomics_zoo.train.report import TrainReport
from connectomics_zoo.train.resolve import continue_run, resolve_run

DEVICES = ("auto", "cpu", "cuda", "mps")
"""What may be asked for; whether it is there is found out when torch is."""


def train(
    ref: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    add: Sequence[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    fast_dev_run: bool = False,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> TrainReport:
    """Train a model and return where the run lies.

    What is wrong with spec, overrides or volumes is found before the first step, and of a new run that is refused
    nothing stays.

    Args:
        ref: an experiment or a model; weights (`name.tag`, a run folder, `hf://…`), to start from with their recipe;
            with `resume`, a run folder.
        overrides: nested fields to change: `{"task": "mito", "data": {"train": {"image": …}}}`.
        add: volumes to train on beside those that there are: `image=…,label=…`, or a YAML file.
        output: the run folder to make; by default a new one in `runs/`.
        resume: go on with the run folder `ref`.
        fast_dev_run: two steps and one validation patch, to see that all works; leaves nothing.
        device: `auto`, `cpu`, `cuda` or `mps`.
        progress: is told of every step and validation, with the loss and the last metrics.
        notify: is told what is taken from weights, what became of them, and why the run ended early.

    Raises:
        ZooError: something is wrong with the arguments, or the run folder cannot be made or is in use.
        CheckFailedError: the loss is no longer finite.
        KeyboardInterrupt: the run was stopped, by ctrl-C or SIGTERM; it can be resumed.
    """
    if resume and output is not None:
        raise OutputError(f"a resumed run goes on in its own folder {ref}, leave out the output {output}.")
    if device not in DEVICES:
        raise UnknownNameError(f"unknown device {device!r}, give auto, cpu, cuda or mps.")
    changes, progress = overrides or {}, progress or notebook_bar("train")

    def fit(run: RunSpec, folder: Path | None) -> TrainReport:
        warn_of_overlap(run.data)
        warn_of_padding(run)
        warn_of_labels(run)
        look_for_classes(run)
        from connectomics_zoo.train.trainer import fit_run

        return fit_run(run, folder=folder, resume=resume, device=device, progress=progress, notify=notify)

    if fast_dev_run:
        return fit(_complete_run(ref, changes, resume=resume, add=add, notify=notify), None)
    if resume:
        with claim_resumed(Path(ref)):  # before its spec is read, which another process may be about to change
            return fit(_complete_run(ref, changes, resume=True, add=add), Path(ref))
    run = resolve_run(ref, changes, add=add, notify=notify)
    folder = _new_folder(run, output)
    with claim_new(folder):
        return fit(run, folder)


def score_validation(folder: Path, run: RunSpec) -> dict[str, float]:
    """Return the task's metrics, each as `val/<name>`, as the validation in training measures them, in float32.

    Args:
        folder: a folder with the weights and their spec.
        run: that spec, with the places of the data.
    """
    from connectomics_zoo.train.validation import validation_voxel_scores

    return validation_voxel_scores(folder, run)


def preview_patches(
    ref: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    path: str | Path,
    add: Sequence[str] = (),
    resume: bool = False,
) -> None:
    """Draw the first patches that `train` would train on, augmented, and train nothing.

    Args:
        ref: an experiment or a model; with `resume`, a run folder.
        overrides: nested fields to change, as for `train`.
        path: the PNG to write; an existing one is replaced.
        add: more volumes, as for `train`.
        resume: look at the run folder `ref`.

    Raises:
        ZooError: something is wrong with the arguments, or the picture cannot be written.
    """
    from connectomics_zoo.pictures.drawing import check_picture

    check_picture(Path(path))
    run = _complete_run(ref, overrides or {}, resume=resume, add=add)
    warn_of_padding(run)
    warn_of_labels(run)
    look_for_classes(run)
    from connectomics_zoo.train.preview import draw_preview

    draw_preview(run, Path(path))


def complete_run(ref: str | Path, overrides: Mapping[str, Any] | None = None) -> RunSpec:
    """Return the run that `train` would train anew, and train nothing; the arguments are those of `complete_spec`."""
    return _complete_run(ref, overrides or {}, resume=False, add=())


def complete_spec(
    ref: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    add: Sequence[str] = (),
    resume: bool = False,
    notify: Callable[[str], None] | None = None,
) -> str:
    """Return the spec of the run that `train` would train, as YAML, and train nothing.

    Args:
        ref: an experiment or a model; with `resume`, a run folder.
        overrides: nested fields to change, as for `train`.
        add: more volumes, as for `train`.
        resume: take the run folder `ref`.
        notify: is told what is taken from weights.

    Raises:
        ZooError: something is wrong with the arguments.
    """
    return run_text(_complete_run(ref, overrides or {}, resume=resume, add=add, notify=notify))


def _complete_run(
    ref: str | Path,
    changes: Mapping[str, Any],
    *,
    resume: bool,
    add: Sequence[str],
    notify: Callable[[str], None] | None = None,
) -> RunSpec:
    if not resume:
        return resolve_run(ref, changes, add=add, notify=notify)
    if add:
        raise SpecError(
            f"--add begins a new run and --resume goes on with {ref}, leave out one; a new run starts from its weights."
        )
    return continue_run(ref, changes)


def _new_folder(run: RunSpec, output: str | Path | None) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(output) if output is not None else Path("runs") / f"{run.name}-{run.task.name}-{stamp}"
