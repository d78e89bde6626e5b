"""Writes labels as OME-Zarr: an image of several levels that says what its labels are called and how large they are."""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.blocks.grid import Edges
from connectomics_zoo.blocks.job import Cut, Job
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.errors import OutputError
from connectomics_zoo.export.labels.job import begun, describe, finished, note_report, objects_of, voxel_size_of
from connectomics_zoo.export.labels.objects import Objects
from connectomics_zoo.export.labels.request import LabelExport, Request, block_edges, chunk_edges
from connectomics_zoo.export.labels.source import Source, lies_at, names_of, source_of, stored_of
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.writing import check_volume_place
from connectomics_zoo.volumes.zarr_writing import write_image_label

MOST_DESCRIBED = 10_000
"""Objects that the metadata of an image lists, which readers load as a whole."""

_GOLDEN = 0.618033988749895
"""Steps of the hue by which neighbouring ids get colours far apart."""

_log = logging.getLogger(__name__)


class _Stage:
    """Writes the labels of a block."""

    def __init__(self, source: Source, made: BlockOutput) -> None:
        self._source = source
        self._made = made

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Write one block."""
        box = self._made.cut.grid.box_of(index)
        self._made.write(box, self._source.read(box)[np.newaxis])


def export_ome_zarr(
    volume: Volume,
    out: str | Path,
    request: Request,
    *,
    block: Edges | None,
    overwrite: bool,
    progress: Callable[[Progress], None],
) -> LabelExport:
    """Make an OME-Zarr of labels; see `export_labels`."""
    voxel_size_nm = voxel_size_of(volume)
    cut = _cut(volume, block or block_edges(voxel_size_nm))
    description = describe(volume, request, cut=cut, stages=("voxels",))
    place, group = split_place(str(out))
    if not isinstance(place, Path) or place.suffix.lower() != ".zarr":
        raise OutputError(f"{out}: is no name of an OME-Zarr on a disk, let it end in .zarr.")
    job = Job(place)
    assert isinstance(job.unfinished, Path)
    report = finished(job, description, job.unfinished)
    if report is not None:
        return report
    stored = stored_of(volume)
    target = check_volume_place(
        out,
        shape=volume.shape,
        dtype=np.dtype(np.uint64),
        channels=None,
        voxel_size_nm=voxel_size_nm,
        stored=stored,
        multiscale=True,
        overwrite=overwrite,
    )
    with begun(job, description, overwrite=overwrite):
        objects = objects_of(job, volume, request, progress=progress)
        source = source_of(volume, objects, voxel_size_nm=voxel_size_nm, is_choice=request.is_choice)
        made = _output(target, cut, volume, dtype=source.dtype, overwrite=overwrite)
        if not job.done("voxels"):
            made.create(stored)
        run_blocks(job, "voxels", _Stage(source, made), grid=cut.grid, where=Where(), progress=progress, label="voxels")
        write_image_label(job.unfinished, dataset=group, document=_described(objects, names_of(volume)))
        report = LabelExport(
            labels=volume.location,
            out=made.location,
            format=request.format,
            objects=len(objects),
            dtype=source.dtype,
            voxel_size_nm=voxel_size_nm,
            levels=tuple(made.levels(stored).shape_of(level)[0] for level in range(len(made.levels(stored).layouts))),
            blocks=len(cut.grid),
        )
        note_report(job, report)
        made.finish(stored, progress=progress)
    return report


def _cut(volume: Volume, edges: Edges) -> Cut:
    return Cut(start=(0, 0, 0), stop=volume.shape, block=edges, shards=edges, chunks=chunk_edges(edges))


def _output(target: tuple[Any, str | None], cut: Cut, volume: Volume, *, dtype: str, overwrite: bool) -> BlockOutput:
    size = voxel_size_of(volume)
    return BlockOutput(
        target,
        cut=cut,
        channels=None,
        dtype=dtype,
        voxel_size_nm=size,
        offset=lies_at(volume, size),
        multiscale=True,
        overwrite=overwrite,
    )


def _described(objects: Objects, names: Mapping[int, str]) -> dict[str, Any]:
    """Return what OME-Zarr says of labels: colours, names, and how large they are."""
    if len(objects) > MOST_DESCRIBED:
        _log.warning(
            "%d objects are too many for the metadata of an image, which has no names and sizes: zoo measure gives a "
            "table of them.",
            len(objects),
        )
        return {}
    colors, properties = [], []
    columns = zip(objects.ids.tolist(), objects.voxels.tolist(), objects.volume_nm3.tolist(), strict=True)
    for one, voxels, volume_nm3 in columns:
        rgb = colorsys.hsv_to_rgb(one * _GOLDEN % 1, 0.65, 0.95)
        colors.append({"label-value": one, "rgba": [*(round(255 * part) for part in rgb), 255]})
        named = {"name": names[one]} if one in names else {}
        properties.append({"label-value": one, **named, "voxels": voxels, "volume_nm3": volume_nm3})
    return {"colors": colors, "properties": properties}
