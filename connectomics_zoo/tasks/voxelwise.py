"""From a task's channel values to labels that follow from each voxel alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.task import TaskSpec


def decoded_channels(task: TaskSpec) -> int:
    """Return how many channels `decode_voxels` makes: one class index for all channels, or a mask for each."""
    return 1 if task.decode.method == "argmax" else len(task.channels)


def decode_voxels(values: NDArray[Any], *, task: TaskSpec) -> NDArray[np.uint8]:
    """Return the labels, uint8 (C', Z, Y, X), that the task makes of its channels' `values` (C, Z, Y, X).

    With `threshold`, each channel becomes 1 where it exceeds the threshold and 0 elsewhere; with `argmax`, all
    channels become the index of the largest.
    """
    if task.decode.method == "argmax":
        classes: NDArray[np.uint8] = values.argmax(axis=0).astype(np.uint8)
        return classes[np.newaxis]
    masks: NDArray[np.uint8] = (values > task.decode.cut).astype(np.uint8)
    return masks
