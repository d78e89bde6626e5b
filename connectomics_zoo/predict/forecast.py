"""`plan_prediction`: what a prediction takes, before it is begun."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.errors import SpecError
from connectomics_zoo.network.device import Precision
from connectomics_zoo.network.threads import usable_cores
from connectomics_zoo.predict.job import Prediction, prepared
from connectomics_zoo.predict.plan import Geometry, block_bytes, count_windows, windows_of_blocks
from connectomics_zoo.predict.request import Request
from connectomics_zoo.predict.slide import read_window
from connectomics_zoo.schema.report import Report
from connectomics_zoo.volumes.ratios import network_range, source_range

_TIMED = 2
"""Windows that are timed, after one that warms up."""


@dataclass(frozen=True)
class PlanReport(Report):
    """What a prediction takes."""

    run: str
    """The run's folder, or the name of the weights."""
    volume: str
    """The image."""
    shape: tuple[int, ...]
    """Of the output: (Z, Y, X), or (C, Z, Y, X)."""
    dtype: str
    """Its data type."""
    window: tuple[int, ...]
    """Window in network voxels."""
    windows: int
    """Windows of all blocks; those over the faces of blocks count in each block."""
    border_percent: float
    """How many more these are than in a single block, in %."""
    blocks: int
    """Blocks: what is lost by a kill is at most one of them."""
    block: tuple[int, int, int]
    """Edges (z, y, x) of a block in voxels."""
    files: int
    """Shards of the output, each a file."""
    shard: tuple[int, int, int]
    """Edges (z, y, x) of a shard in voxels."""
    workers: int
    """Who share the blocks."""
    read_bytes: int
    """Read by all blocks together, uncompressed."""
    written_bytes: int
    """Written, uncompressed."""
    memory_bytes: int
    """Memory of a worker: the largest block, and the program with network and window where windows were timed."""
    gpu_memory_bytes: int | None
    """GPU memory of a worker, None where no window was timed on one."""
    device: str
    """What the windows were timed on."""
    precision: Precision
    """In which arithmetic."""
    is_measured: bool
    """Whether windows were timed; otherwise the speed was given."""
    voxels_per_second: float
    """Voxels of the volume a second of one worker, as if the volume were a single block."""
    block_seconds: float
    """For a block, on average."""
    seconds: float
    """For all blocks."""


def plan_prediction(
    request: Request, *, where: Where, workers: int = 1, voxels_per_second: float | None = None
) -> PlanReport:
    """Return what a prediction takes.

    Args:
        request: what is asked for; its output is looked at by nobody.
        where: where it is to run: says how many blocks there should be at least.
        workers: who share the blocks.
        voxels_per_second: speed of a worker; without it, two windows are timed here.

    Raises:
        SpecError: the speed is not possible.
        ZooError: what `predict` raises of such a request.
    """
    if voxels_per_second is not None and not voxels_per_second > 0:
        raise SpecError(f"{voxels_per_second:g} voxels per second are not possible, give more than 0.")
    with prepared(request) as prediction:
        cutting = prediction.cut(workers=where.count)
        geometry, grid = prediction.geometry, cutting.grid
        once, windows = count_windows(geometry, grid.box), windows_of_blocks(geometry, grid)
        if voxels_per_second is None:
            window_seconds, gpu_memory = _time_windows(prediction, processes=where.workers or 1)
            voxels_per_second = grid.box.voxels / (once * window_seconds)
            is_measured = True
        else:
            window_seconds, gpu_memory = grid.box.voxels / voxels_per_second / once, None
            is_measured = False
        largest = block_bytes(
            geometry,
            block=cutting.block,
            shard_depth=cutting.shards[0],
            channels_in=prediction.channels_in,
            channels_out=prediction.channels_out,
            value_bytes=np.dtype(request.dtype).itemsize,
        )
        channels = () if prediction.channels is None else (prediction.channels,)
        shares = min(workers, len(grid))
        return PlanReport(
            run=prediction.trained.name,
            volume=prediction.source.location,
            shape=(*channels, *grid.box.shape),
            dtype=request.dtype,
            window=prediction.window,
            windows=windows,
            border_percent=round(100 * (windows / once - 1), 1),
            blocks=len(grid),
            block=cutting.block,
            files=len(BlockGrid(grid.box, cutting.shards)),
            shard=cutting.shards,
            workers=workers,
            read_bytes=_voxels_read(geometry, grid) * prediction.channels_in * prediction.source.dtype.itemsize,
            written_bytes=grid.box.voxels
            * (prediction.channels or 1)
            * np.dtype(request.dtype).itemsize
            * (1 if request.spread is None else 2),
            memory_bytes=largest + _peak_memory_bytes(),
            gpu_memory_bytes=gpu_memory,
            device=str(prediction.device),
            precision=prediction.precision,
            is_measured=is_measured,
            voxels_per_second=round(voxels_per_second, 1),
            block_seconds=round(windows * window_seconds / len(grid), 3),
            seconds=round(windows * window_seconds * -(-len(grid) // shares) / len(grid), 3),
        )


def _time_windows(prediction: Prediction, *, processes: int) -> tuple[float, int | None]:
    """Return the seconds for a window from the middle of the volume, and the GPU memory that it took.

    Args:
        prediction: what is predicted.
        processes: how many share the cores of this machine.
    """
    forward = prediction.forward()
    geometry = prediction.geometry
    z, y, x = (grid.starts[len(grid.starts) // 2] for grid in geometry.grids)
    window = read_window(
        prediction.source,
        (z, y, x),
        geometry=geometry,
        scale=prediction.scaled,
        channels=prediction.channels_in,
    )
    batch = window.expand(prediction.request.batch_size, *window.shape).contiguous()
    threads = torch.get_num_threads()
    is_cuda = prediction.device.type == "cuda"
    if not is_cuda and processes > 1:
        torch.set_num_threads(max(1, usable_cores() // processes))
    try:
        forward(batch)
        begin = time.perf_counter()
        for _ in range(_TIMED):
            forward(batch)
        seconds = (time.perf_counter() - begin) / _TIMED / len(batch)
    finally:
        torch.set_num_threads(threads)
    return seconds, torch.cuda.max_memory_reserved(prediction.device) if is_cuda else None


def _voxels_read(geometry: Geometry, blocks: BlockGrid) -> int:
    """Return how many voxels of the volume the windows of all blocks cover together, each block by itself."""
    total = 1
    for axis, grid in enumerate(geometry.grids):
        factor, size = geometry.factors[axis], geometry.shape[axis]
        first, stop = blocks.box.ranges[axis]
        covered = 0
        for start in range(first, stop, blocks.edges[axis]):
            part = network_range(start, min(start + blocks.edges[axis], stop), factor=factor, size=grid.size)
            starts, more = grid.touching(*part), geometry.context[axis]
            seen = max(0, starts[0] - more), min(grid.size, starts[-1] + grid.window + more)
            low, high = source_range(*seen, ratio=factor, size=size)
            covered += high - low
        total *= covered
    return total


def _peak_memory_bytes() -> int:
    """Return the most memory that this process has had; 0 on Windows, which does not say it in this way."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
