"""`zoo` with small blocks and a small cache, which writes down the blocks that its workers begin and end.

They show with volumes of some hundred voxels along an edge what else would take thousands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from connectomics_zoo.blocks import dask_worker, dask_workers
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Work
from connectomics_zoo.cli.main import main as run_zoo
from connectomics_zoo.predict import plan
from connectomics_zoo.volumes import uri
from connectomics_zoo.volumes.uri import Place

BLOCK = 48
"""Edge of a block, in voxels."""

WINDOW = 32
"""Edge of a window."""

OVERLAP = 0.25

CACHE_BYTES = 4 * 2**20
"""Chunks that a process keeps: with as many as usual, the volumes would not fill the cache."""

JOURNAL = "ZOO_SCALE_JOURNAL"
"""The environment variable with the file that gets a line for each block that is begun or ended in a worker."""


def work_on(out: Place, stage: str, work: Work, index: int, *, token: str) -> None:
    """Work on a block as a worker does, and write down that it is begun, and that it is done."""
    shrink_cache()
    note("begun", stage, index)
    dask_worker.work_on(out, stage, work, index, token=token)
    note("done", stage, index)


def shrink_cache() -> None:
    """Let this process keep few chunks; called before the first volume is opened."""
    uri._CACHE_BYTES = CACHE_BYTES


def note(event: str, stage: str, index: int) -> None:
    """Add a line to the journal: several processes may do so at once."""
    path = os.environ.get(JOURNAL)
    if path is not None:
        entry = {"time": time.time(), "event": event, "stage": stage, "block": index}
        with Path(path).open("ab", buffering=0) as file:
            file.write(f"{json.dumps(entry)}\n".encode())


def main() -> None:
    """Run `zoo`."""
    step = int(WINDOW * (1 - OVERLAP))
    plan.CHUNK_EDGE = step
    plan.SHARD_EDGES = (BLOCK, BLOCK, BLOCK)
    plan.BLOCK_WINDOWS = (1 + BLOCK // step) ** 3
    Where.parts = 1  # type: ignore[assignment, method-assign]  # no smaller blocks for more workers
    dask_workers.work_on = work_on
    shrink_cache()
    run_zoo()


COMMAND = (sys.executable, "-c", "from scaling.small import main; main()")
"""Runs it, in the environment of `environment`."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that imports this file and the package of this repository."""
    scripts = Path(__file__).parent.parent
    paths = os.pathsep.join([str(scripts), str(scripts.parent)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}
