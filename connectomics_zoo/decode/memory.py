"""How much memory decoding takes, and refusing what does not fit before anything is read."""

from __future__ import annotations

from typing import Literal

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


def refuse_too_large(
    task: TaskSpec,
    *,
    shape: tuple[int, ...],
    stored: np.dtype[np.generic],
    location: str,
    what: Literal["block", "part"] = "block",
) -> None:
    """Refuse a block, or a part of the foreground that crosses blocks, that does not fit into the memory.

    That is where it is known how much there is.

    Raises:
        LimitError: it does not.
    """
    needed, available = needed_bytes(task, shape=shape, stored=stored), available_bytes()
    if available is None or needed <= available:
        return
    size = " x ".join(map(str, shape))
    needs = f"takes about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are free"
    if what == "part":
        raise LimitError(
            f"{location}: a connected part of the foreground fills a box of {size} voxels, and flooding it, which has "
            f"to be done at once, {needs}: give a higher threshold, another --method, or use a machine with more."
        )
    raise LimitError(
        f"{location}: decoding {size} voxels by {task.decode.method} {needs}: decode a part (--region), or use a "
        "machine with more."
    )
