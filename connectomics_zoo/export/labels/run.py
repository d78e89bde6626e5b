"""Exports labels: measures the objects, writes voxels, surfaces and skeletons block by block, and lets them appear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from connectomics_zoo.export.labels.ome_zarr import export_ome_zarr
from connectomics_zoo.export.labels.request import LabelExport, LabelFormat, Request, check_edges
from connectomics_zoo.export.labels.to_precomputed import export_precomputed
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress, silent
from connectomics_zoo.volumes import VoxelSize, open_volume
from connectomics_zoo.volumes.writing import refuse_own_input


def export_labels(
    labels: str | Path,
    out: str | Path,
    *,
    format: LabelFormat = "precomputed",
    meshes: bool = False,
    skeletons: bool = False,
    ids: Sequence[int] | None = None,
    min_voxels: int = 0,
    mesh_error_nm: float | None = None,
    voxel_size_nm: VoxelSize | None = None,
    block: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> LabelExport:
    """Write labels for viewers: at several scales, with meshes, skeletons, and a list of the objects with their sizes.

    Block by block: in memory are a block, what is known of each object (some 200 bytes), and one object's surface,
    simplified. Until it is finished, what is done lies in the folder `OUT.job` beside it; whatever stops it, the same
    call goes on and redoes the block in work. 0 and the largest id of 32 and 64 bits are background, all other ids stay
    as they are.

    Args:
        labels: whole numbers; each label but background is an object.
        out: a folder (`precomputed`), or `NAME.zarr[:GROUP]` (`ome-zarr`).
        format: Neuroglancer's precomputed volume in compressed segmentation, or OME-Zarr 0.5 with `image-label`.
        meshes: add the surface of each object, closed and in nm (`neuroglancer_legacy_mesh`).
        skeletons: add the centre lines of each object with their radii, in nm (`neuroglancer_skeletons`).
        ids: export these objects alone.
        min_voxels: leave out objects of fewer voxels.
        mesh_error_nm: how far a vertex of a mesh and the surface of the voxels may be apart; 0 leaves all triangles. By
            default twice the edge of a cube that is as large as a voxel.
        voxel_size_nm: (z, y, x), where the volume does not say it.
        block: edges of a block (z, y, x), multiples of 16.
        overwrite: replace `out` if it exists, and an unfinished one of another job.
        progress: is told how many voxels or objects are done.

    Raises:
        VolumeError: the volume cannot be read, holds no labels or not those that are asked for, or its voxel size is
            not known.
        SpecError: an option is not possible, or has no effect.
        OutputError: `out` cannot be written, or is the unfinished one of another job.
    """
    progress = progress or notebook_bar("export") or silent
    request = Request(format, meshes, skeletons, None if ids is None else tuple(ids), min_voxels, mesh_error_nm)
    request.check()
    edges = None if block is None else check_edges(block)
    with open_volume(labels, voxel_size_nm=voxel_size_nm) as volume:
        refuse_own_input(volume.location, out)
        export = export_precomputed if format == "precomputed" else export_ome_zarr
        return export(volume, out, request, block=edges, overwrite=overwrite, progress=progress)
