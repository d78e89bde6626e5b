"""The job of an export: begun, gone on with, or found to be done; what is done lies in `OUT.job` until then."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from connectomics_zoo.blocks.job import Cut, Job, JobDescription, is_same, refuse_another
from connectomics_zoo.blocks.turns import work_on
from connectomics_zoo.errors import VolumeError, ZooError
from connectomics_zoo.export.labels.objects import Objects, count_objects, from_bytes
from connectomics_zoo.export.labels.request import LabelExport, Request
from connectomics_zoo.export.labels.source import absolute
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes import Volume, VoxelSize
from connectomics_zoo.volumes.prediction import this_program, to_attributes

PIECES, PRECOMPUTED = "pieces", "precomputed"
"""Folders in that of the job."""

_OBJECTS, _REPORT = "objects.npz", "report.json"


def voxel_size_of(volume: Volume) -> VoxelSize:
    """Return the voxel size of a volume.

    Raises:
        VolumeError: it is not known.
    """
    if volume.voxel_size_nm is None:
        raise VolumeError(
            f"{volume.location}: does not say how large its voxels are, and viewers place labels in nm: give the voxel "
            "size (z, y, x) in nm (--voxel-size-nm, voxel_size_nm)."
        )
    return volume.voxel_size_nm


def describe(volume: Volume, request: Request, *, cut: Cut, stages: tuple[str, ...]) -> JobDescription:
    """Return what the job is."""
    said = json.dumps(to_attributes(volume.stored()), sort_keys=True)
    identity = {
        "labels": absolute(volume.location),
        "labels' shape": list(volume.shape),
        "labels' data type": str(volume.dtype),
        "labels' provenance": hashlib.sha256(said.encode()).hexdigest()[:12],
        "voxel size": list(voxel_size_of(volume)),
        "block": list(cut.block),
        **request.identity(),
    }
    return JobDescription(
        schema_version=1,
        verb="export",
        program=this_program(),
        identity=identity,
        request={},
        cut=cut,
        stages=stages,
    )


def finished(job: Job, description: JobDescription, unfinished: Path) -> LabelExport | None:
    """Return the report of a job that was killed when all was done and in its place; then its folder is removed."""
    there = job.describe()
    if there is None or not is_same(there, description) or unfinished.exists():
        return None
    found = job.read(_REPORT)
    if found is None:
        return None
    fields = json.loads(found)
    tuples = {name: tuple(fields[name]) for name in ("voxel_size_nm",)}
    levels = tuple((z, y, x) for z, y, x in fields["levels"])
    job.remove()
    return LabelExport(**{**fields, **tuples, "levels": levels})


@contextmanager
def begun(job: Job, description: JobDescription, *, overwrite: bool) -> Iterator[None]:
    """Begin a job or go on with it, and hold the right to work on it during the block.

    Args:
        job: the job.
        description: what it is.
        overwrite: whether an unfinished one that is another job is replaced.

    Raises:
        OutputError: another job is unfinished there, or another process works on it.
    """
    with work_on(job, None):
        there = job.describe()
        if there is None or (overwrite and not is_same(there, description)):
            _clear(job)
            job.begin(description)
        else:
            refuse_another(there, description, location=str(job.out))
        try:
            yield
        except KeyboardInterrupt:
            grid, stages = description.cut.grid, description.stages
            done = {stage: len(job.done(stage)) for stage in stages}
            told = ", ".join(f"{count} of {len(grid)} {stage}" for stage, count in done.items() if count)
            raise KeyboardInterrupt(
                f"stopped, done in blocks: {told or 'none'}: repeat the command to go on."
            ) from None
        except ZooError:
            if not job.done(description.stages[0]):
                _clear(job)
            raise


def _clear(job: Job) -> None:
    """Remove all that is known of a job."""
    job.clear()
    assert job.folder is not None
    for name in (PIECES, PRECOMPUTED):
        shutil.rmtree(job.folder / name, ignore_errors=True)
    for name in (_OBJECTS, _REPORT):
        (job.folder / name).unlink(missing_ok=True)


def objects_of(job: Job, volume: Volume, request: Request, *, progress: Callable[[Progress], None]) -> Objects:
    """Return the objects that are exported, which are counted once in a job.

    Raises:
        VolumeError: the volume holds no labels, or not those that are asked for.
    """
    found = job.read(_OBJECTS)
    if found is not None:
        return from_bytes(found, location=f"{job.place}/{_OBJECTS}")
    objects = count_objects(volume.location, voxel_size_nm=volume.voxel_size_nm, progress=progress)
    chosen = objects.chosen(request.ids, request.min_voxels, location=volume.location)
    job.write(_OBJECTS, chosen.to_bytes())
    return chosen


def note_report(job: Job, report: LabelExport) -> None:
    """Write down that all is done, but for its place."""
    job.write(_REPORT, json.dumps(dataclasses.asdict(report)).encode())
