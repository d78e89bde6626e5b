"""The checkpoint of a run, in its folder: from where it is resumed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import UnknownNameError, WeightsError
from connectomics_zoo.files.atomic import output_errors, whole_file
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of its run."""

    steps: int
    """Optimiser steps that the run has behind it."""
    callbacks: Mapping[str, Any]
    """The state of each callback, by its name."""


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder has a checkpoint."""
    return (folder / CHECKPOINT_FILE).is_file()


def check_resumable(folder: Path) -> None:
    """Refuse a run folder that has results and no checkpoint; where it has neither, the run begins with its first step.

    Raises:
        UnknownNameError: it cannot be resumed.
    """
    if not has_checkpoint(folder) and (folder / WEIGHTS_FILE).exists():
        raise UnknownNameError(
            f"{folder} has no {CHECKPOINT_FILE} to resume from: train anew in another folder, with "
            f"init_from={folder} to start from its weights."
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return what the checkpoint in a run folder says; its tensors are not read.

    Raises:
        WeightsError: it is damaged.
    """
    import torch

    path = folder / CHECKPOINT_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return Checkpoint(steps=int(state["global_step"]), callbacks=dict(state["callbacks"]))
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError):
        raise WeightsError(f"{path}: is no checkpoint of a run, or damaged: train it anew in another folder.") from None


def write_checkpoint(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a checkpoint, which replaces that of a run folder when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / CHECKPOINT_FILE
    with output_errors(path):
        path.parent.mkdir(exist_ok=True)
    with whole_file(path, overwrite=True) as partial:
        write(partial)
