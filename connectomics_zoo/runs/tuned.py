"""Settings of a decoder that were tuned for a run, in its folder."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.runs.folder import TUNED_FILE
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.schema.validation import validate


def read_tuned(folder: Path) -> TunedDecoding | None:
    """Return what tuning has found for a run folder, or None where it was not tuned.

    Raises:
        SpecError: the file does not follow its schema.
    """
    path = folder / TUNED_FILE
    return validate(TunedDecoding, read_yaml(path), source=str(path)) if path.exists() else None


def write_tuned(tuned: TunedDecoding, folder: Path) -> Path:
    """Write what tuning has found into a run folder, in place of what was found before, and return the file.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = folder / TUNED_FILE
    write_text(path, dump_yaml(tuned.model_dump(mode="json", exclude_none=True)))
    return path
