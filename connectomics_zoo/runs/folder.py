"""The run folder: the name of every file in it, its spec, and where its weights lie."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.errors import UnknownNameError, WeightsError
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.validation import validate

SPEC_FILE = "spec.yaml"
"""The resolved spec. In a repository on the Hub that has no file of this name, its only YAML file is the spec."""

WEIGHTS_FILE = "model.safetensors"
"""The weights that were kept. In a repository that has no file of this name, its only safetensors file is it."""

METRICS_FILE = "metrics.json"
"""The final scores, and the steps that were done; it is there when the training has ended."""

CURVE_FILE = "curve.png"
"""The picture of loss and score over the steps."""

CHECKPOINT_FILE = "checkpoints/last.ckpt"
"""Lightning's checkpoint, for resuming only: network, optimiser and step."""

LOGS = "logs"
"""The folder of CSV and TensorBoard logs."""

LOG_FILE = f"{LOGS}/metrics.csv"
"""The CSV log, from the first step on."""

LOAD_REPORT_FILE = "load_report.json"
"""What became of each tensor of the weights that the run started from, where it started from some."""

TUNED_FILE = "decode.yaml"
"""The settings of the decoder that tuning found, where `zoo decode --tune` was given the run."""

PROVENANCE_FILE = "provenance.json"
"""Where the weights come from; in what `zoo push` makes of a run, which is a run folder too."""

PREVIEW = "push-preview"
"""The folder that `zoo push --dry-run` makes where it is given no other."""

LOCK_FILE = ".lock"
"""Says which process trains in the folder, for as long as it does."""


def get_run(folder: str | Path) -> RunSpec:
    """Return the resolved spec of a run folder.

    Raises:
        UnknownNameError: `folder` is no run folder.
        SpecError: the spec does not follow its schema.
    """
    require_run(folder)
    path = Path(folder) / SPEC_FILE
    return validate(RunSpec, read_yaml(path), source=str(path))


def require_run(folder: str | Path) -> None:
    """Refuse what is no run folder.

    Raises:
        UnknownNameError: there is no spec in it.
    """
    if not (Path(folder) / SPEC_FILE).is_file():
        raise UnknownNameError(
            f"{str(folder)!r} is no run folder: it has no {SPEC_FILE}; give the folder that zoo train made."
        )


def run_text(run: RunSpec) -> str:
    """Return the resolved spec as it lies in a run folder, and in the metadata of weights that are given away."""
    return dump_yaml(run.model_dump(mode="json", exclude_none=True))


def write_run(run: RunSpec, folder: Path) -> None:
    """Write the resolved spec into a run folder, in place of an older one.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_text(folder / SPEC_FILE, run_text(run))


def spec_in(folder: Path) -> Path:
    """Return the file of the spec, of a run or of a model, in a folder that has weights beside it.

    Raises:
        UnknownNameError: there is none.
    """
    if not (folder / SPEC_FILE).is_file():
        raise UnknownNameError(f"{str(folder)!r} is a folder without {SPEC_FILE}, a run folder has one.")
    return folder / SPEC_FILE


def weights_in(folder: Path) -> Path:
    """Return the file of the weights in a folder; it and the spec may be links within the folder, but not out of it.

    Raises:
        UnknownNameError: there is no spec.
        WeightsError: there are no weights, or a file is a link out of the folder.
    """
    weights = folder / WEIGHTS_FILE
    for file in (spec_in(folder), weights):
        if file.is_symlink() and folder.resolve() not in file.resolve().parents:
            raise WeightsError(f"{file}: is a link out of its folder, which is not followed: copy the file there.")
    if not weights.is_file():
        raise WeightsError(f"{weights}: there is no such weights file, is the training still running?")
    return weights
