"""What a petabyte would take, on paper: counted from the plan that a prediction follows, and not measured."""

from __future__ import annotations

import math
from typing import Any

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.predict import plan
from connectomics_zoo.predict.plan import make_geometry
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.weights.pretrained import find_run
from scaling.common import Section, Settings, table

SHAPE = (50_000, 100_000, 200_000)
"""Voxels (z, y, x) of 10**15 bytes: 0.4 x 0.8 x 1.6 mm at 8 nm."""

WEIGHTS = "mednext-S.fib25-affinities"

CHUNK = 128
"""Edge of the chunks of the volume that is read, in voxels."""

WORKERS = 256
"""GPUs."""

RATES = (1e6, 1e7, 1e8)
"""Voxels a second of a GPU: it takes a measurement to say which one yours does."""

GPU_HOUR = 2.0
"""Dollars for an hour of a GPU: an assumption."""

PUT, GET = 5e-6, 4e-7
"""Dollars for a request to an object store: the list price of the largest provider, and an assumption for others."""


def count_petabyte(settings: Settings) -> dict[str, Any]:
    """Return what the prediction of a petabyte takes: blocks, windows, requests, and GPU-days at several speeds."""
    spec, _ = find_run(WEIGHTS)
    assert spec.prediction.window is not None
    z, y, x = spec.prediction.window
    geometry = make_geometry(
        shape=SHAPE,
        factors=spec.data.downsample,
        window=(z, y, x),
        overlap=spec.prediction.overlap,
        box=Box.of_shape(SHAPE),
    )
    channels = len(spec.task.channels)
    cutting = plan.cut(
        geometry, channels_in=spec.model.input.channels, channels_out=channels, value_bytes=1, workers=WORKERS
    )
    blocks = BlockGrid(geometry.box, cutting.block)
    windows = plan.windows_of_blocks(geometry, blocks)
    once = plan.count_windows(geometry, geometry.box)
    shards = math.prod(-(-size // edge) for size, edge in zip(SHAPE, cutting.shards, strict=True)) * channels
    reads = len(blocks) * math.prod(
        -(-(edge + 2 * window * factor) // CHUNK) + 1
        for edge, window, factor in zip(cutting.block, (z, y, x), spec.data.downsample, strict=True)
    )
    voxels = math.prod(SHAPE)
    return {
        "weights": WEIGHTS,
        "shape": list(SHAPE),
        "channels": channels,
        "block": list(cutting.block),
        "blocks": len(blocks),
        "windows": windows,
        "overhead": round(windows / once - 1, 3),
        "bytes_written": voxels * channels,
        "shards": shards,
        "shard": list(cutting.shards),
        "reads": reads,
        "gpus": WORKERS,
        "speeds": [
            {
                "voxels_per_second": rate,
                "gpu_days": round(voxels / rate / 86400, 1),
                "days": round(voxels / rate / 86400 / WORKERS, 2),
                "blocks_per_second": round(len(blocks) / (voxels / rate / WORKERS), 3),
                "gpu_dollars": round(voxels / rate / 3600 * GPU_HOUR),
            }
            for rate in RATES
        ],
        "request_dollars": round((shards + 2 * len(blocks)) * PUT + reads * GET),
    }


def render(data: dict[str, Any]) -> str:
    """Return the tables."""
    z, y, x = data["shape"]
    known = [
        ["volume", f"{z} x {y} x {x} voxels, 1 PB in uint8"],
        ["network", f"`{data['weights']}`, {data['channels']} channels out"],
        ["blocks", f"{data['blocks'] / 1e6:.1f} million of {' x '.join(map(str, data['block']))}"],
        ["windows", f"{data['windows'] / 1e9:.0f} billion, {data['overhead']:.0%} more than without blocks"],
        ["written", f"{data['bytes_written'] / 1e15:.0f} PB uncompressed, {data['shards'] / 1e6:.0f} million files"],
        ["requests to read", f"{data['reads'] / 1e9:.1f} billion, of chunks of {CHUNK} x {CHUNK} x {CHUNK}"],
        ["marks of what is done", f"{data['blocks'] / 1e6:.1f} million small files"],
        ["requests, in dollars", f"{data['request_dollars']:,}, at {PUT * 1e6:.0f} for a million writes and "
         f"{GET * 1e6:.1f} for a million reads"],
    ]  # fmt: skip
    rows = [
        [
            f"{speed['voxels_per_second'] / 1e6:g} Mvoxel/s",
            f"{speed['gpu_days']:,.0f}",
            f"{speed['days']:.1f}",
            f"{speed['blocks_per_second']:.1f}",
            f"{speed['gpu_dollars']:,}",
        ]
        for speed in data["speeds"]
    ]
    headers = ["a GPU does >", "GPU-days >", f"days on {data['gpus']} GPUs >", "blocks a second >", "dollars >"]
    return (
        "Counted from the plan that a prediction follows, and not measured. The speed of a GPU is an assumption, and "
        f"so are ${GPU_HOUR:.0f} for its hour and the prices of requests:\n\n{table(['', ''], known)}\n\n"
        f"{table(headers, rows)}\n\n"
        "One Dask scheduler gives out as many blocks a second as its overhead above allows: beyond that, use job "
        "arrays, which share nothing but the disk. So many marks of what is done are more than file systems like "
        "in one folder: predict such a volume in regions (`--region`), each with an output of its own. The graph "
        "of `agglomeration` took about a byte a voxel on FIB-25, so objects of a petabyte do not come from one "
        "graph in memory: decode in regions that fit, and join them in a program for proofreading by the edges "
        "that are kept."
    )


SECTION = Section("A petabyte, on paper", count_petabyte, render)
