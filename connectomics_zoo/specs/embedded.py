"""The spec in a weights file: how trained weights that stand alone say what they are and how they are used."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.files.yaml import parse_yaml
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.validation import validate


def run_in(path: Path) -> RunSpec | None:
    """Return how the weights in a safetensors file were trained, None where the file does not say it.

    Raises:
        WeightsError: it is missing, a pickle, or no safetensors file.
        SpecError: the spec in it does not follow its schema, or names places of another machine.
    """
    text = read_header(path).metadata.get("spec")
    if text is None:
        return None
    source = f"the spec in {path}"
    run = validate(RunSpec, parse_yaml(text, source=source), source=source)
    check_portable(run, source=source)
    return run
