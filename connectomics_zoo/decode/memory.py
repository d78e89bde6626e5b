"""How much memory decoding takes, and refusing what does not fit before anything is read."""

from __future__ import annotations

import numpy as np

from connectomics_zoo.errors import LimitError
from connectomics_zoo.schema.task import OBJECT_METHODS, TaskSpec
from connectomics_zoo.volumes.memory import available_bytes

METHOD_BYTES: dict[str, int] = {"components": 48, "watershed": 48, "mutex": 64, "agglomeration": 176}
"""Bytes a voxel that a method takes beside its channels, a little more than what was measured on 2.5 million voxels of
noisy affinities; a mutex watershed takes `EDGE_BYTES` an edge more."""

EDGE_BYTES = 24

assert METHOD_BYTES.keys() == set(OBJECT_METHODS)


def needed_bytes(task: TaskSpec, *, shape: tuple[int, ...], stored: np.dtype[np.generic]) -> int:
    """Return about how many bytes it takes to decode a prediction of `shape` (Z, Y, X), stored in this data type."""
    channels = len(task.channels)
    affinities = sum(channel.target.kind == "affinity" for channel in task.channels)
    a_voxel = channels * (stored.itemsize + 4) + affinities * 8 + METHOD_BYTES[task.decode.method]
    if task.decode.method == "mutex":
        attractive = sum(bool(channel.target.attractive) for channel in task.channels)
        a_voxel += (affinities + attractive) * EDGE_BYTES
    return a_voxel * int(np.prod(shape))


def refuse_too_large(task: TaskSpec, *, shape: tuple[int, ...], stored: np.dtype[np.generic], location: str) -> None:
    """Refuse a prediction that does not fit into the memory, where that is known.

    Raises:
        LimitError: it does not.
    """
    needed, available = needed_bytes(task, shape=shape, stored=stored), available_bytes()
    if available is not None and needed > available:
        raise LimitError(
            f"{location}: decoding {' x '.join(map(str, shape))} voxels by {task.decode.method} takes about "
            f"{needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are free: decode a part (--region), "
            "or use a machine with more."
        )
