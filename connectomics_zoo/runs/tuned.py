"""Settings of a decoder that were tuned for a run, in its folder."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.schema.validation import validate

TUNED_FILE = "decode.yaml"
"""In a run folder: the settings that tuning found."""


def read_tuned(run: str | Path) -> DecodeSpec | None:
    """Return the settings that tuning has found for a run folder, or None where it was not tuned.

    Raises:
        SpecError: the file does not follow its schema.
    """
    path = Path(run) / TUNED_FILE
    return validate(TunedDecoding, read_yaml(path), source=str(path)).decode if path.exists() else None


def write_tuned(tuned: TunedDecoding, run: str | Path) -> Path:
    """Write the settings into a run folder, instead of older ones, and return the file.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = Path(run) / TUNED_FILE
    write_text(path, dump_yaml(tuned.model_dump(mode="json", exclude_none=True)))
    return path
