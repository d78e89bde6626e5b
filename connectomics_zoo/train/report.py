"""What a training run gives; without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from connectomics_zoo.schema.report import Report


@dataclass(frozen=True)
class TrainReport(Report):
    """What a training run gave."""

    folder: Path
    """The run folder, itself a reference for `load` and `predict`."""
    steps: int
    """Optimiser steps done in all."""
    metrics: dict[str, float]
    """Metrics (`val/dice`, …) and `step` of the weights that were kept.

    They are of windows side by side: `predict` blends windows that overlap, and `evaluate` may give other scores.
    """
    start: dict[str, float] = field(default_factory=dict)
    """The same metrics before the first step, where it started from weights and is validated."""
