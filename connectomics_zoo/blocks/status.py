"""How far a job is, as anybody can see who sees its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from connectomics_zoo.blocks.job import Job, JobDescription
from connectomics_zoo.errors import UnknownNameError
from connectomics_zoo.runs.lock import holder_of
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.location import JOB_SUFFIX, split_place

_RECENT = 64
"""Blocks whose times say how fast it goes."""

_TAIL_BYTES = 1 << 20
"""Of a log, what is read at most."""


@dataclass(frozen=True)
class StageStatus:
    """How far one stage of a job is."""

    name: str
    """What is done with each block."""
    done: int
    """Blocks that are done."""
    blocks: int
    """All blocks."""
    voxels_done: int
    """Voxels of the blocks that are done."""
    voxels: int
    """All voxels."""


@dataclass(frozen=True)
class JobStatus:
    """How far a job is."""

    out: str
    """The output."""
    state: str
    """`finished`, `working` where a process holds its lock, or `stopped`."""
    verb: str | None = None
    """What makes it."""
    program: str | None = None
    """What has begun it, and its version."""
    stages: tuple[StageStatus, ...] = ()
    """What is done, in the order in which it is."""
    workers: tuple[str, ...] = ()
    """Processes that work on it: `process 123 on host since …`."""
    voxels_per_second: float | None = None
    """Of late, over all workers; None where it is not known."""
    seconds_left: float | None = None
    """At that speed, until the stage in work is done."""
    last: str | None = None
    """When the last block was done: date, time and offset from UTC."""


def status_of(out: str | Path) -> JobStatus:
    """Return how far the job is that makes an output.

    Args:
        out: the output: a path, or a URI.

    Raises:
        UnknownNameError: neither the output nor a job for it is there.
        OutputError: the job's folder cannot be read.
    """
    text = str(out).rstrip("/")
    place, _ = split_place(text.removesuffix(JOB_SUFFIX))
    job = Job(place)
    description = job.describe()
    if description is None:
        if isinstance(place, Path) and place.exists():
            with open_volume(place) as volume:
                if volume.stored().provenance is None:
                    raise UnknownNameError(
                        f"{place}: does not say that zoo has made it, and no job for it is left: check the path."
                    )
            return JobStatus(str(place), "finished")
        raise UnknownNameError(f"{place}: there is neither this output nor a job that makes it, check the path.")
    whole = description.identity.get("spread of")
    if whole is not None:  # a second output, of which the job of the first knows how far it is
        return status_of(whole)
    stages = tuple(_stage(job, description, name) for name in description.stages)
    workers = tuple(_workers(job))
    speed, last = _speed(job, description)
    left = next((stage for stage in stages if stage.done < stage.blocks), None)
    return JobStatus(
        out=str(place),
        state="working" if workers else "stopped",
        verb=description.verb,
        program=description.program,
        stages=stages,
        workers=workers,
        voxels_per_second=speed,
        seconds_left=None if not speed or left is None else round((left.voxels - left.voxels_done) / speed, 1),
        last=last,
    )


def _stage(job: Job, description: JobDescription, name: str) -> StageStatus:
    grid, done = description.cut.grid, job.done(name)
    voxels = sum(grid.box_of(index).voxels for index in done if index < len(grid))
    return StageStatus(name, len(done), len(grid), voxels, grid.box.voxels)


def _workers(job: Job) -> Iterator[str]:
    if job.folder is None:
        return
    for folder in (job.folder, *sorted((job.folder / "shares").glob("*-of-*"))):
        holder = holder_of(folder)
        if holder is not None:
            process = holder.process
            yield f"process {process.pid} on {process.host} since {holder.since}"


@dataclass(frozen=True)
class _Finished:
    """A block that the log says was done."""

    stage: str
    """What was done with it."""
    begin: float
    """When the work on it began, in seconds."""
    end: float
    """When it was done, in seconds."""
    voxels: int
    """Its voxels."""
    time: str
    """When it was done: date, time and offset from UTC."""


def _speed(job: Job, description: JobDescription) -> tuple[float | None, str | None]:
    """Return voxels a second over the last blocks of the stage that was last in work, and when the last one was done.

    The time is that in which any of them was in work, so that no pause between two runs counts.
    """
    blocks = [block for entry in _log_entries(job) if (block := _finished(entry, description)) is not None]
    if not blocks:
        return None, None
    blocks = [block for block in blocks if block.stage == blocks[-1].stage][-_RECENT:]
    seconds, until = 0.0, -math.inf
    for block in sorted(blocks, key=lambda block: block.begin):
        seconds += max(0.0, block.end - max(block.begin, until))
        until = max(until, block.end)
    voxels = sum(block.voxels for block in blocks)
    return (round(voxels / seconds, 1) if seconds > 0 else None), blocks[-1].time


def _finished(entry: dict[str, Any], description: JobDescription) -> _Finished | None:
    """Return the block of the job that an entry of the log says was done, None where it says anything else."""
    # Coarser levels of the output have blocks of their own.
    if entry.get("event") != "block" or entry.get("stage") not in description.stages:
        return None
    grid = description.cut.grid
    try:
        end = datetime.fromisoformat(entry["time"]).timestamp()
        seconds, index = float(entry["seconds"]), int(entry["block"])
    except (KeyError, TypeError, ValueError, OverflowError):  # another program has written it
        return None
    if not (math.isfinite(seconds) and seconds >= 0 and 0 <= index < len(grid)):
        return None
    return _Finished(entry["stage"], end - seconds, end, grid.box_of(index).voxels, entry["time"])


def _log_entries(job: Job) -> list[dict[str, Any]]:
    """Return the last lines of the log that can be read."""
    text = job.log_tail(_TAIL_BYTES)
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a line that was cut
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
