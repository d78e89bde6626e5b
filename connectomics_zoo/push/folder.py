"""What is pushed, as files: their names, and the folder of a preview, which they get into whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import output_errors, whole_file
from connectomics_zoo.runs.folder import (
    CURVE_FILE,
    METRICS_FILE,
    PROVENANCE_FILE,
    SPEC_FILE,
    TUNED_FILE,
    WEIGHTS_FILE,
)

CARD_FILE = "README.md"
"""The model card, which the Hub shows as the repository's page."""

PICTURE_FILE = "prediction.png"
"""The picture of a prediction beside the truth."""

OPTIONAL_FILES = (PICTURE_FILE, CURVE_FILE, TUNED_FILE)
"""What some runs have: of an earlier push it is taken away if this one has it not."""

_ALWAYS = (WEIGHTS_FILE, SPEC_FILE, METRICS_FILE, PROVENANCE_FILE, CARD_FILE)


def file_sizes(files: Mapping[str, Path]) -> dict[str, int]:
    """Return the bytes of each file."""
    return {name: path.stat().st_size for name, path in files.items()}


def refuse_other_content(folder: Path) -> None:
    """Refuse a folder for a preview that holds anything that a preview does not make, or weights that none has made.

    Raises:
        OutputError: it does, or is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, and a preview is a folder: choose another place with --output.")
    names = {item.name for item in folder.iterdir()}
    ours = {*_ALWAYS, *OPTIONAL_FILES}
    others = sorted(name for name in names if name not in ours and not name.endswith(".safetensors"))
    if PROVENANCE_FILE not in names:  # a run, or what zoo pull or zoo convert made
        others += sorted(names & {WEIGHTS_FILE, SPEC_FILE, TUNED_FILE})
    if others:
        raise OutputError(
            f"{folder} holds {others[0]!r}, which is no part of a preview, and is left as it is: choose another place "
            "with --output."
        )


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into `folder`, each complete or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        with whole_file(folder / name, overwrite=True) as partial:
            shutil.copyfile(path, partial)
