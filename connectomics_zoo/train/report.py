"""What a training run tells while it runs, and what it gives; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a training run is."""

    step: int
    """Optimiser steps done."""
    max_steps: int
    """Optimiser steps of the run."""
    loss: float
    """The last step's loss."""
    seconds_left: float
    """Estimated from the steps of this call."""
    metrics: dict[str, float]
    """The last validation's metrics, empty before the first one."""


@dataclass(frozen=True)
class TrainReport:
    """What a training run gave."""

    folder: Path
    """The run folder, itself a reference for `load` and `predict`."""
    steps: int
    """Optimiser steps done in all."""
    metrics: dict[str, float]
    """Metrics (`val/dice`, …) and `step` of the weights that were kept."""
