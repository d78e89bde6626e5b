"""What a prediction's channels mean to the decoders, with affinities in the one convention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.affinities import (
    OffsetZYX,
    affinity_channels,
    convention_of,
    overlap_slices,
    to_canonical,
)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Channels:
    """The values that decoders read; what a task does not have is None."""

    foreground: Array | None
    """(Z, Y, X), in 0..1."""
    boundary: Array | None
    """(Z, Y, X), in 0..1."""
    distance: Array | None
    """(Z, Y, X), larger deep inside an object."""
    affinities: Array | None
    """(C, Z, Y, X) in 0..1: every edge at its source, none points backwards."""
    offsets: tuple[OffsetZYX, ...]
    """One an affinity."""
    attractive: tuple[bool, ...]
    """One an affinity: whether it joins."""

    @property
    def attractions(self) -> list[tuple[Array, OffsetZYX]]:
        """The affinities that join, each (Z, Y, X) with its offset."""
        if self.affinities is None:
            return []
        pairs = zip(self.affinities, self.offsets, self.attractive, strict=True)
        return [(values, offset) for values, offset, joins in pairs if joins]

    def crop(self, slices: tuple[slice, slice, slice]) -> Channels:
        """Return the voxels in `slices` alone; affinities that leave them have no meaning then."""
        parts = [None if one is None else one[slices] for one in (self.foreground, self.boundary, self.distance)]
        z, y, x = slices
        affinities = None if self.affinities is None else self.affinities[:, z, y, x]
        return Channels(parts[0], parts[1], parts[2], affinities, self.offsets, self.attractive)


def reach_of(task: TaskSpec) -> tuple[int, int, int]:
    """Return how far the longest affinity of a task reaches along z, y and x, in voxels."""
    offsets = () if task.affinities is None else convention_of(task).offsets
    z, y, x = (max((abs(offset[axis]) for offset in offsets), default=0) for axis in range(3))
    return z, y, x


def read_channels(values: Array, *, task: TaskSpec) -> Channels:
    """Return the channels of `values` (C, Z, Y, X) by their meaning, with affinities in the canonical convention."""
    affinities: Array | None = None
    offsets: tuple[OffsetZYX, ...] = ()
    attractive: tuple[bool, ...] = ()
    if task.affinities is not None:
        convention = convention_of(task)
        affinities, offsets = to_canonical(values[list(affinity_channels(task))], convention)
        attractive = convention.attractive
    return Channels(
        foreground=_of_kind(values, task, "foreground"),
        boundary=_of_kind(values, task, "boundary"),
        distance=_of_kind(values, task, "distance"),
        affinities=affinities,
        offsets=offsets,
        attractive=attractive,
    )


def _of_kind(values: Array, task: TaskSpec, kind: Literal["foreground", "boundary", "distance"]) -> Array | None:
    """Return the first channel with a target of this kind."""
    found = (channel for channel, spec in zip(values, task.channels, strict=True) if spec.target.kind == kind)
    return next(found, None)


def mean_attraction(channels: Channels) -> Array:
    """Return for every voxel the mean of the attractive affinities that it has a part in, (Z, Y, X)."""
    assert channels.affinities is not None
    total = np.zeros(channels.affinities.shape[1:], dtype=np.float32)
    count = np.zeros(total.shape, dtype=np.uint8)
    for values, offset in channels.attractions:
        source, destination = overlap_slices(total.shape, offset)
        for end in (source, destination):
            total[end] += values[source]
            count[end] += 1
    np.divide(total, count, out=total, where=count > 0)
    return total


def joined_voxels(channels: Channels, *, threshold: float) -> NDArray[np.bool_]:
    """Return where an attractive affinity above `threshold` joins the voxel to another one, (Z, Y, X)."""
    assert channels.affinities is not None
    joined = np.zeros(channels.affinities.shape[1:], dtype=bool)
    for values, offset in channels.attractions:
        source, destination = overlap_slices(joined.shape, offset)
        above = values[source] > threshold
        joined[source] |= above
        joined[destination] |= above
    return joined
