"""The run folder: the name of every file in it, and reading it."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.errors import (
    UnknownNameError,
)
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.validation import validate

SPEC_FILE = "spec.yaml"
"""Name of the spec in a repository; where there is none, its only YAML file is it."""


WEIGHTS_FILE = "model.safetensors"
"""Name of the weights in a repository; where there are none, its only safetensors file is it."""


RUN_SPEC = "spec.yaml"
"""Name of the resolved spec in a run folder."""


def get_run(folder: str | Path) -> RunSpec:
    """Return the resolved spec of a run folder.

    Raises:
        UnknownNameError: `folder` is no run folder.
    """
    path = Path(folder) / RUN_SPEC
    if not path.is_file():
        raise UnknownNameError(
            f"{str(folder)!r} is no run folder: it has no {RUN_SPEC}; give the folder that zoo train made."
        )
    return validate(RunSpec, read_yaml(path), source=str(path))


CHECKPOINT_FILE = "checkpoints/last.ckpt"
"""Lightning's checkpoint in a run folder, for resuming only: network, optimiser and step."""


METRICS_FILE = "metrics.json"
"""Name of the final scores in a run folder."""


LOGS = "logs"
"""Name of the folder of CSV and TensorBoard logs in a run folder."""


REPORT_FILE = "load_report.json"
"""Name, in a run folder, of what became of each tensor of the weights that the run started from."""
