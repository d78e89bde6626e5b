"""How far a long job is, as every verb reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a job is: reported when its work begins, whenever some of it is done, and at its end."""

    done: int
    """Of `unit`; a job that goes on from where another one stopped begins above 0."""
    total: int
    """Of `unit`, as far as is known by now."""
    unit: str
    """What is counted, in the plural: steps, voxels, …"""
    label: str = ""
    """What is in work now, empty where there is nothing to tell apart."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured of late, by name: `loss`, `val/dice`, …"""
