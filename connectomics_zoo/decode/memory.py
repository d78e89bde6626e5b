"""How much memory decoding takes, and refusing what does not fit before anything is read."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from connectomics_zoo.blocks.grid import Edges
from connectomics_zoo.errors import LimitError
from connectomics_zoo.schema.task import OBJECT_METHODS, TaskSpec
from connectomics_zoo.volumes.memory import available_bytes

METHOD_BYTES: dict[str, int] = {"components": 48, "watershed": 48, "mutex": 64, "agglomeration": 176}
"""Bytes a voxel that a method takes beside its channels, a little more than what was measured on 2.5 million voxels of
noisy affinities; a mutex watershed takes `EDGE_BYTES` an edge more."""

EDGE_BYTES = 24

BLOCK_BYTES = 4 * 2**30
"""What a block may take, and what is around it; larger ones are not faster, and more is lost with one."""

EDGE_STEP = 64
"""Edges of blocks are chosen in steps of it, in voxels: whole chunks of the output."""

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


def fits(task: TaskSpec, *, shape: tuple[int, ...], stored: np.dtype[np.generic]) -> bool:
    """Whether a prediction fits into the memory as a whole; where nobody knows how much there is, it does."""
    available = available_bytes()
    return available is None or needed_bytes(task, shape=shape, stored=stored) <= available


def choose_edges(task: TaskSpec, *, shape: Edges, around: Edges, stored: np.dtype[np.generic], parts: int) -> Edges:
    """Return the edges (z, y, x) of the blocks that a prediction is decoded in.

    They are halved, the longest one first, until a block fits, and there are enough.

    Args:
        task: how it is decoded.
        shape: voxels of the prediction (z, y, x).
        around: how many voxels more are read on every side of a block.
        stored: data type of the prediction.
        parts: blocks that there must be at least, where the volume is large enough for that.
    """
    available = available_bytes()
    limit = BLOCK_BYTES if available is None else min(BLOCK_BYTES, available // (2 * max(1, parts // 4)))
    edges = list(shape)
    while max(edges) > EDGE_STEP:
        outer = tuple(edge + 2 * more for edge, more in zip(edges, around, strict=True))
        enough = math.prod(-(-size // edge) for size, edge in zip(shape, edges, strict=True)) >= parts
        if enough and needed_bytes(task, shape=outer, stored=stored) <= limit:
            break
        axis = max(range(3), key=lambda axis: edges[axis])
        edges[axis] = max(1, -(-edges[axis] // (2 * EDGE_STEP))) * EDGE_STEP
    z, y, x = edges
    return z, y, x


def refuse_too_large(
    task: TaskSpec,
    *,
    shape: tuple[int, ...],
    stored: np.dtype[np.generic],
    location: str,
    what: Literal["block", "whole", "part"] = "block",
) -> None:
    """Refuse what does not fit into the memory, where it is known how much there is.

    That is a block, or what settings are tuned on as a whole, or a connected part of the foreground.

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
    if what == "whole":
        raise LimitError(
            f"{location}: tuning on {size} voxels by {task.decode.method} {needs}: tune on a part (--region), or use "
            "a machine with more."
        )
    raise LimitError(
        f"{location}: decoding {size} voxels by {task.decode.method} {needs}: give smaller blocks (--block), decode a "
        "part (--region), or use a machine with more."
    )
