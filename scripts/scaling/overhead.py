"""What a block takes beside its work: blocks that do nothing, here and in Dask workers."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.blocks.job import Cut, Job, JobDescription
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.schema.progress import Progress
from scaling.common import Section, Settings, table

AIM_MS = 20
"""Below which a block in a Dask worker should be."""

WAYS = {"in one process": Where(), "1 worker (Dask)": Where(workers=1), "2 workers (Dask)": Where(workers=2)}


@dataclass(frozen=True)
class Nothing:
    """Work that returns at once."""

    def __call__(self, index: int, advance: object) -> None:
        """Do nothing."""


def measure_overhead(settings: Settings) -> dict[str, Any]:
    """Measure each way, without the start of the workers."""
    rows = []
    for way, where in WAYS.items():
        print(f"scale: {settings.blocks} blocks of no work, {way} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            rows.append({"way": way, "seconds": seconds_a_block(Path(folder), settings.blocks, where)})
    return {"blocks": settings.blocks, "rows": rows}


def seconds_a_block(folder: Path, blocks: int, where: Where) -> float:
    """Return the mean from the first block that is done to the last."""
    edges = (4, 4, 4)
    cut = Cut(start=(0, 0, 0), stop=(4, 4, 4 * blocks), block=edges, shards=edges, chunks=edges)
    stages = ("predict",)
    description = JobDescription(
        schema_version=1, verb="predict", program="none", identity={}, request={}, cut=cut, stages=stages
    )
    folder = folder / "out.zarr.job"
    folder.mkdir()
    job = Job(folder.parent / "out.zarr")
    job.begin(description)
    moments: list[float] = []

    def note(progress: Progress) -> None:
        if progress.done:
            moments.append(time.perf_counter())

    assert run_blocks(job, "predict", Nothing(), grid=cut.grid, where=where, progress=note)
    assert len(moments) == blocks
    return (moments[-1] - moments[0]) / (blocks - 1)


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = [[row["way"], f"{1000 * row['seconds']:.1f} ms", aim(row["way"])] for row in data["rows"]]
    return (
        f"Of {data['blocks']} blocks that do nothing, from the first one done to the last: to be handed out, and to be "
        "written down as done.\n\n" + table(["where", "time a block >", "aim >"], rows)
    )


def aim(way: str) -> str:
    """Return what was aimed at."""
    return f"< {AIM_MS} ms" if "Dask" in way else ""


SECTION = Section("What a block takes beside its work", measure_overhead, render)
