"""The final scores of a run, in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.runs.folder import METRICS_FILE


def has_metrics(folder: Path) -> bool:
    """Whether the training of a run folder has ended."""
    return (folder / METRICS_FILE).is_file()


def read_metrics(folder: Path) -> tuple[dict[str, float], int, int]:
    """Return the scores of a run folder, the steps that were done, and the step whose weights were kept.

    Raises:
        WeightsError: the training has not ended, or the file is not what `zoo train` writes.
    """
    path = folder / METRICS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        steps, kept = int(content.pop("steps")), int(content.pop("step"))
        content.pop("start", None)
        return {str(name): float(value) for name, value in content.items()}, steps, kept
    except FileNotFoundError:
        raise WeightsError(
            f"{folder}: has no {METRICS_FILE}, its training has not ended: let it end, or go on with "
            f"zoo train {folder} --resume."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: is not what zoo train writes ({error!r}), restore it.") from None


def write_metrics(
    metrics: Mapping[str, float], folder: Path, *, steps: int, start: Mapping[str, float] | None = None
) -> None:
    """Write the scores into a run folder, in place of older ones.

    Args:
        metrics: the scores (`val/dice`, …), and as `step` the one whose weights were kept.
        folder: the run folder.
        steps: optimiser steps that were done.
        start: the scores before the first step, where there are any.

    Raises:
        OutputError: the folder cannot be written.
    """
    content = {"steps": steps, **metrics, **({"start": dict(start)} if start else {})}
    write_text(folder / METRICS_FILE, json.dumps(content, indent=2) + "\n")
