"""Makes a task's targets from labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.task import TaskSpec

ANISOTROPIC = 2.0
"""Sections thicker than this many pixels are not compared with each other in boundary targets."""


def make_targets(
    labels: NDArray[Any], *, task: TaskSpec, voxel_size_nm: tuple[float, ...] | None
) -> NDArray[np.float32]:
    """Return the targets (C, Z, Y, X), one channel for each of the task's.

    Args:
        labels: label volume (Z, Y, X).
        task: the task.
        voxel_size_nm: edge lengths (z, y, x) of the labels' voxels, None where unknown; decides whether
            boundaries are looked for across sections.

    Raises:
        VolumeError: a `value` target outside 0..1.
    """
    channels = []
    for channel in task.channels:
        if channel.target.kind == "foreground":
            channels.append(labels > 0)
        elif channel.target.kind == "background":
            channels.append(labels == 0)
        elif channel.target.kind == "boundary":
            channels.append(_boundaries(labels, axes=_boundary_axes(voxel_size_nm)))
        else:
            low, high = float(labels.min()), float(labels.max())
            if not 0 <= low <= high <= 1:
                raise VolumeError(
                    f"the channel {channel.name!r} takes labels as values, which must lie in 0..1 and lie in "
                    f"{low:g}..{high:g}."
                )
            channels.append(labels)
    return np.stack(channels).astype(np.float32)


def is_continuous(task: TaskSpec) -> list[bool]:
    """For each channel, whether its target is a continuous value (resized by interpolation, not by nearest)."""
    return [channel.target.kind == "value" for channel in task.channels]


def _boundary_axes(voxel_size_nm: tuple[float, ...] | None) -> tuple[int, ...]:
    if voxel_size_nm is not None and voxel_size_nm[0] < ANISOTROPIC * voxel_size_nm[-1]:
        return (0, 1, 2)
    return (1, 2)


def _boundaries(labels: NDArray[Any], *, axes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Both voxels of every face between two labels along `axes`."""
    result = np.zeros(labels.shape, dtype=bool)
    for axis in axes:
        first = tuple(slice(None, -1) if index == axis else slice(None) for index in range(labels.ndim))
        second = tuple(slice(1, None) if index == axis else slice(None) for index in range(labels.ndim))
        different = labels[first] != labels[second]
        result[first] |= different
        result[second] |= different
    return result
