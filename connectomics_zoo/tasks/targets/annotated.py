"""Where the targets of a volume are known that annotates some of a task's channels only."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.task import TaskSpec


def annotated_known(
    values: NDArray[Any],
    known: NDArray[np.bool_],
    *,
    task: TaskSpec,
    classes: Collection[str] | None,
    is_object: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return where the targets are known (C, Z, Y, X), given which channels the volume annotates.

    Of a channel that is not annotated, nothing is known. A softmax says more, since a voxel is one of its classes: a
    voxel of an annotated class is none of the others. One that is of no annotated class is known not to be any of them,
    and may be every other one, which `task_loss` takes as one class. What is labelled as a class that is not annotated,
    or as none that the task has, may be anything.

    Args:
        values: the targets (C, Z, Y, X), 1 for yes in the channels of a softmax.
        known: where they are known as far as the labels say, of the same shape; it is changed.
        task: the task, with C channels.
        classes: the names of the channels that are annotated; None for all.
        is_object: (Z, Y, X), where the volume that a softmax is made of has a label other than 0.
    """
    missing = [
        index for index, channel in enumerate(task.channels) if classes is not None and channel.name not in classes
    ]
    softmax = list(task.softmax)
    if not softmax:
        known[missing] = False
        return known
    yes = values[softmax] > 0.5
    there = known[softmax].any(axis=0)
    own = np.array([index not in missing for index in softmax])
    left = np.array([task.channels[index].target.is_background for index in softmax])
    is_own = yes[own].any(axis=0)
    claimed = yes[~own & ~left].any(axis=0) | (is_object & ~yes.any(axis=0))
    # With every class annotated, what is none of them is nothing that could be learnt.
    is_open = is_own if own.all() else np.ones_like(is_own)
    known[missing] = False
    known[softmax] |= there & is_own
    known[softmax] &= is_open & ~claimed
    return known
