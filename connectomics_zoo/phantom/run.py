"""Makes and writes whole phantoms: the image, and the truth for it."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import check_place, whole_file
from connectomics_zoo.phantom.grid import Integers, plan_grid
from connectomics_zoo.phantom.rendering import acquire, render
from connectomics_zoo.phantom.structure import distance_to_membrane, grow_cells, grow_organelles, label_half_width
from connectomics_zoo.volumes.hdf5_writing import Hdf5Output
from connectomics_zoo.volumes.location import FORMAT_OF_SUFFIX
from connectomics_zoo.volumes.metadata import VoxelSize

_MITOCHONDRION_RADII_NM = (58.0, 125.0)
_SMALLEST_PIECE_UM3 = 0.0003


@dataclass(frozen=True)
class Phantom:
    """An image and its truth, all of one shape (z, y, x)."""

    image: npt.NDArray[np.uint8]
    """Grey values; membranes are dark."""
    neurons: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    """Instance labels of neurites; 0 on membranes."""
    mitochondria: npt.NDArray[np.uint16]
    """Instance labels of mitochondria; 0 elsewhere."""
    membranes: npt.NDArray[np.uint8]
    """1 on cell membranes, 0 elsewhere."""
    voxel_size_nm: VoxelSize
    """Edge lengths of a voxel (z, y, x) in nanometres."""


def make_phantom(*, shape: tuple[int, int, int], seed: int, voxel_size_nm: VoxelSize = (8.0, 8.0, 8.0)) -> Phantom:
    """Make a phantom of `shape` (z, y, x); the same seed gives the same phantom.

    Sections thicker than pixels are wide come out as in serial sectioning: blurred through their thickness,
    and each with a brightness of its own. From about half a micrometre of edge, mitochondria take 5 to 12 %.

    Raises:
        VolumeError: an edge is shorter than `MINIMUM_EDGE`, or a voxel smaller than `SMALLEST_VOXEL_NM` or larger
            than `LARGEST_VOXEL_NM`, which would show no cells.
        LimitError: it would have more than `MAXIMUM_VOXELS` voxels on the fine grid; nothing was allocated.
    """
    grid = plan_grid(shape, voxel_size_nm=voxel_size_nm)
    rng = np.random.default_rng(seed)
    cells = grow_cells(rng, grid=grid)
    depth = distance_to_membrane(cells, grid=grid)
    free = depth.copy()
    mitochondria = grow_organelles(
        rng, grid=grid, depth=free, fraction=rng.uniform(0.07, 0.095), radii=_MITOCHONDRION_RADII_NM, length=900.0
    )
    bodies = grow_organelles(rng, grid=grid, depth=free, fraction=0.008, radii=(40.0, 80.0), length=0.0)
    scene = render(rng, grid=grid, cells=cells, depth=depth, mitochondria=mitochondria, bodies=bodies)
    image = acquire(rng, scene=scene, grid=grid)
    middle = slice(grid.cuts // 2, None, grid.cuts)
    neurons = _label_pieces(
        np.where(depth[middle] > label_half_width(grid), cells[middle], 0), voxel_size_nm=voxel_size_nm
    )
    return Phantom(
        image=image,
        neurons=neurons.astype(np.uint16 if neurons.max() < 2**16 else np.uint32),
        mitochondria=mitochondria.labels[middle].astype(np.uint16),
        membranes=(neurons == 0).astype(np.uint8),
        voxel_size_nm=voxel_size_nm,
    )


def write_phantom(path: Path, phantom: Phantom, *, overwrite: bool = False) -> None:
    """Write one HDF5 file with the datasets `raw`, `neurons`, `mitochondria` and `membranes`.

    Raises:
        OutputError: the name is not one of an HDF5 file, the file exists and `overwrite` is false, or it cannot be
            written; nothing is left behind.
    """
    if FORMAT_OF_SUFFIX.get(path.suffix.lower()) != "hdf5":
        raise OutputError(f"{path}: a phantom is an HDF5 file, call it {path.with_suffix('.h5')}.")
    check_place(path, overwrite=overwrite)
    with whole_file(path, overwrite=overwrite) as partial, closing(Hdf5Output(partial)) as file:
        for name, array in (
            ("raw", phantom.image),
            ("neurons", phantom.neurons),
            ("mitochondria", phantom.mitochondria),
            ("membranes", phantom.membranes),
        ):
            file.add(
                name,
                voxel_size_nm=phantom.voxel_size_nm,
                attributes={},
                data=array,
                chunks=True,
                compression="gzip",
                compression_opts=1,
            )


def _label_pieces(labels: Integers, *, voxel_size_nm: VoxelSize) -> Integers:
    """Give each connected piece of a label a label of its own, from 1 up; specks become 0."""
    speck = min(_SMALLEST_PIECE_UM3 * 1e9 / math.prod(voxel_size_nm), 0.01 * labels.size)
    result = np.zeros_like(labels)
    last = 0
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == value)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        numbers = np.zeros(count + 1, dtype=labels.dtype)
        for piece in range(1, count + 1):
            if sizes[piece] >= speck:
                last += 1
                numbers[piece] = last
        result[box] += numbers[pieces]
    return result
