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


def silent(progress: Progress) -> None:
    """Show nothing, in a notebook neither."""


def count(progress: Progress) -> str:
    """Return `2/10`, or from a million on `0.2/1.0 M`."""
    if progress.total < 1_000_000:
        return f"{progress.done}/{progress.total}"
    return f"{progress.done / 1e6:.1f}/{progress.total / 1e6:.1f} M"


def duration(seconds: float | None) -> str:
    """Return `1:02`, or `1:02:03` from an hour on."""
    minutes, rest = divmod(round(seconds or 0), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
