"""What was suggested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from connectomics_zoo.schema.report import Report

By = Literal["spread", "doubt"]
"""How a box is scored: by how far networks and views are apart, or by how near the values are to the threshold."""


@dataclass(frozen=True)
class Suggestion(Report):
    """A box to annotate."""

    rank: int
    """1 for the first choice."""
    z: tuple[int, int]
    """Its sections [first, stop), in voxels of the volume."""
    y: tuple[int, int]
    """Its rows."""
    x: tuple[int, int]
    """Its columns."""
    centre_nm: tuple[float, float, float] | None
    """Its centre (z, y, x) in the volume's world, None where the voxel size is not known."""
    score: float
    """Mean over its voxels of what it was scored by: 0 where all is certain."""


@dataclass(frozen=True)
class SuggestReport(Report):
    """Which boxes to annotate next."""

    run: str
    """The run's folder, or the name of the weights."""
    members: tuple[str, ...]
    """The names of all networks; several are an ensemble."""
    volume: str
    """The image."""
    views: str
    """The views of each window."""
    by: By
    """What the boxes were scored by."""
    size: tuple[int, int, int]
    """Edges of each box (z, y, x) in voxels of the volume."""
    suggestions: tuple[Suggestion, ...]
    """The boxes, the first choice first; no two share a voxel."""
    candidates: int
    """Boxes that they were chosen from."""
    annotated: int
    """Further boxes that were left out because something in them is annotated."""
    mean_score: float
    """Mean score of the candidates, to compare with."""
    out: str | None
    """The folder with the boxes for viewers and specs, and the prediction; None where none was asked for."""
