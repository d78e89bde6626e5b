"""A job that makes a precomputed volume of labels, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.blocks.job import Cut, Job
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Work
from connectomics_zoo.export.labels import branches, surfaces
from connectomics_zoo.export.labels.job import (
    PIECES,
    PRECOMPUTED,
    begun,
    describe,
    finished,
    note_report,
    objects_of,
    voxel_size_of,
)
from connectomics_zoo.export.labels.objects import Objects
from connectomics_zoo.export.labels.pieces import Found, Pieces
from connectomics_zoo.export.labels.precomputed import (
    MESHES,
    PROPERTIES,
    SKELETONS,
    LevelStage,
    PrecomputedVolume,
    VoxelStage,
    levels_of,
)
from connectomics_zoo.export.labels.request import LabelExport, Request, block_edges, check_folder, chunk_edges
from connectomics_zoo.export.labels.simplify import Mesh
from connectomics_zoo.export.labels.source import Source, names_of, source_of, stored_of
from connectomics_zoo.files.atomic import check_place, move_into_place
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes import Volume

TABLE = "objects.csv"
"""The table of objects, in the folder of the volume."""

_GROUP = 64
"""Objects between two records of which are done."""

_HERE = Where()

Tell = Callable[[Progress], None]


def export_precomputed(
    volume: Volume, out: str | Path, request: Request, *, block: Edges | None, overwrite: bool, progress: Tell
) -> LabelExport:
    """Make a precomputed volume of labels; see `export_labels`."""
    voxel_size_nm = voxel_size_of(volume)
    edges = block or block_edges(voxel_size_nm)
    chunks = chunk_edges(edges)
    stages = ("voxels", *(["surfaces"] if request.meshes else []), *(["branches"] if request.skeletons else []))
    cut = Cut(start=(0, 0, 0), stop=volume.shape, block=edges, shards=edges, chunks=chunks)
    description = describe(volume, request, cut=cut, stages=stages)
    folder = check_folder(out)
    job = Job(folder)
    assert job.folder is not None
    unfinished = job.folder / PRECOMPUTED
    report = finished(job, description, unfinished)
    if report is not None:
        return report
    check_place(folder, overwrite=overwrite)
    with begun(job, description, overwrite=overwrite):
        objects = objects_of(job, volume, request, progress=progress)
        source = source_of(volume, objects, voxel_size_nm=voxel_size_nm, is_choice=request.is_choice)
        made = PrecomputedVolume(unfinished, levels_of(source), source.dtype, chunks)
        making = _Making(job, cut.grid, source, made, objects, request, progress)
        report = making.all(volume, out=folder)
        note_report(job, report)
        move_into_place(unfinished, folder, overwrite=overwrite)
        job.remove()
    return report


@dataclass(frozen=True)
class _Making:
    """The stages of a job."""

    job: Job
    grid: BlockGrid
    source: Source
    made: PrecomputedVolume
    objects: Objects
    request: Request
    progress: Tell

    def all(self, volume: Volume, *, out: Path) -> LabelExport:
        """Do all that is not done, and return what came of it."""
        request, made, names = self.request, self.made, names_of(volume)
        parts = [PROPERTIES, *([MESHES] if request.meshes else []), *([SKELETONS] if request.skeletons else [])]
        made.create(parts, stored_of(volume))
        self._each("voxels", VoxelStage(self.source, self.grid, made), self.grid)
        for level in range(1, len(made.levels)):
            self._each(f"level-{level}", LevelStage(made, level), made.grid(level))
        meshes = self._meshes() if request.meshes else None
        skeletons = self._skeletons() if request.skeletons else None
        columns = {} if skeletons is None else {"skeleton_length_nm": np.array(_listed(skeletons, "lengths"))}
        named = {one: name for one, name in names.items() if one in set(self.objects.ids.tolist())}
        numbers = {"voxels": self.objects.voxels, "volume_nm3": self.objects.volume_nm3, **columns}
        made.write_properties(self.objects.ids, named, numbers)
        made.write_table(TABLE, self.objects.to_csv(named, columns))
        return LabelExport(
            labels=volume.location,
            out=str(out),
            format=request.format,
            objects=len(self.objects),
            dtype=made.dtype,
            voxel_size_nm=self.source.voxel_size_nm,
            levels=tuple(level.shape for level in made.levels),
            blocks=len(self.grid),
            meshes=None if meshes is None else sum(_listed(meshes, "meshes")),
            triangles=None if meshes is None else sum(_listed(meshes, "triangles")),
            mesh_error_nm=None if meshes is None else request.error_nm(self.source.voxel_size_nm),
            skeletons=None if skeletons is None else sum(length > 0 for length in _listed(skeletons, "lengths")),
            skeleton_length_nm=None if skeletons is None else float(sum(_listed(skeletons, "lengths"))),
            properties=str(out / PROPERTIES / "info"),
            csv=str(out / TABLE),
        )

    def _each(self, stage: str, work: Work, grid: BlockGrid) -> None:
        run_blocks(self.job, stage, work, grid=grid, where=_HERE, progress=self.progress, label=stage)

    def _pieces(self, name: str) -> Pieces:
        assert self.job.folder is not None
        return Pieces(self.job.folder / PIECES / name)

    def _meshes(self) -> list[dict[str, Any]]:
        """Make surfaces in blocks, and of them the meshes; half of what a mesh may be off is for each."""
        half, pieces = self.request.error_nm(self.source.voxel_size_nm) / 2, self._pieces("surfaces")
        self._each("surfaces", surfaces.SurfaceStage(self.source, self.grid, pieces, half), self.grid)
        self.made.describe(MESHES)
        return self._groups("meshes", pieces, lambda found, ids: self._mesh_group(found, ids, error_nm=half))

    def _mesh_group(self, found: Found, ids: Sequence[int], *, error_nm: float) -> dict[str, Any]:
        size: NDArray[np.float64] = np.array(self.source.voxel_size_nm)
        whole = (
            ((one, number), part)
            for one in ids
            for number, part in enumerate(surfaces.put_together(found.of(one), size, surfaces.MOST_FACES))
        )
        parts: dict[int, list[Mesh]] = {}
        for batch in surfaces.batches(whole, surfaces.MOST_FACES):
            for (one, _), part in surfaces.simplified(batch, error_nm=error_nm)[0].items():
                parts.setdefault(one, []).append(part)
        for one, its_parts in parts.items():
            self.made.write_mesh(one, its_parts, self.source)
        return {"meshes": [len(parts)], "triangles": [sum(len(part.faces) for its in parts.values() for part in its)]}

    def _skeletons(self) -> list[dict[str, Any]]:
        """Make skeletons in blocks, and put them together."""
        pieces = self._pieces("branches")
        self._each("branches", branches.BranchStage(self.source, self.grid, pieces), self.grid)
        self.made.describe(SKELETONS)
        return self._groups("skeletons", pieces, self._skeleton_group)

    def _skeleton_group(self, found: Found, ids: Sequence[int]) -> dict[str, Any]:
        lengths = []
        for one in ids:
            skeleton = branches.put_together(found.of(one), self.source)
            self.made.write_skeleton(one, skeleton)
            lengths.append(branches.length_of(skeleton))
        return {"lengths": lengths}

    def _groups(
        self, stage: str, pieces: Pieces, work: Callable[[Found, Sequence[int]], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Put objects together, several between two records, and return the records of all."""
        done, ids = self.job.done(stage), self.objects.ids.tolist()
        found = pieces.find(range(len(self.grid)))
        records = []
        for group, start in enumerate(range(0, len(ids), _GROUP)):
            self.progress(Progress(start, len(ids), "objects", label=stage))
            name = f"done/{stage}/{group}"
            if group not in done:
                self.job.write(name, json.dumps(work(found, ids[start : start + _GROUP])).encode())
            records.append(json.loads(self.job.read(name) or b"{}"))
        self.progress(Progress(len(ids), len(ids), "objects", label=stage))
        return records


def _listed(records: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """Return the values of all records one after the other."""
    return [value for record in records for value in record[name]]
