"""Surfaces of objects: marching cubes in blocks, which share the vertices between them, and what is put together.

A block has the cubes between its voxels and the next ones, so that each cube is of one block; outside of the volume is
background, which closes all surfaces. Of voxels corner to corner, Lorensen and Cline's table makes the same on both
sides of a face, so that each edge is in two triangles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.export.labels.pieces import Piece, Pieces
from connectomics_zoo.export.labels.simplify import Mesh, joined, simplify
from connectomics_zoo.export.labels.source import Source
from connectomics_zoo.volumes import Box

_Key = TypeVar("_Key")

MOST_FACES = 400_000
"""Triangles that are simplified at a time, unless an object has more in one block."""


@dataclass(frozen=True)
class SurfaceStage:
    """Makes the surfaces in a block; it can be pickled."""

    source: Source
    grid: BlockGrid
    pieces: Pieces
    error_nm: float
    """How far they may be from what marching cubes give."""

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Make those of one block."""
        labels, origin = with_next(self.source, self.grid.box_of(index), is_closed=True)
        size = np.array(self.source.voxel_size_nm)
        made: dict[int, Piece] = {}
        for batch in batches(surfaces(labels, size, advance), MOST_FACES):
            for one, mesh in simplified(batch, error_nm=self.error_nm)[0].items():
                points = mesh.vertices / size
                points[mesh.fixed] = np.rint(2 * points[mesh.fixed]) / 2  # the same numbers in all blocks
                made[one] = Piece(points + origin, mesh.faces.astype(np.int32), mesh.fixed)
        self.pieces.write(index, made)


def with_next(source: Source, core: Box, *, is_closed: bool) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the labels of a block and of the next voxels behind it, and where the first of them lies.

    Where the volume ends there are none, or if it `is_closed`, background on that side.
    """
    around = Box.of_ranges(
        (first, min(stop + 1, end)) for (first, stop), end in zip(core.ranges, source.shape, strict=True)
    )
    labels = source.read(around)
    if not is_closed:
        return labels, np.array(core.start)
    pads = [(int(first == 0), int(stop == end)) for (first, stop), end in zip(core.ranges, source.shape, strict=True)]
    return np.pad(labels, pads), np.array(core.start) - [before for before, _ in pads]


def surfaces(
    labels: NDArray[Any], voxel_size_nm: NDArray[np.float64], advance: Callable[[float], None]
) -> Iterator[tuple[int, Mesh]]:
    """Yield the surface of each object, with its id.

    Args:
        labels: (Z, Y, X); a vertex where they end is fixed.
        voxel_size_nm: of the vertices, which are in nm from the first voxel.
        advance: is told which fraction is done.
    """
    from bioimage_cpp.mesh import marching_cubes

    ids, numbers = np.unique(labels, return_inverse=True)
    if ids[0] != 0:
        ids, numbers = np.append(np.zeros(1, ids.dtype), ids), numbers + 1
    numbers = numbers.reshape(labels.shape).astype(np.int32)
    last = np.array(labels.shape) - 1
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        advance((number - 1) / (len(ids) - 1))
        grown = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in place)
        mask = numbers[grown] == number
        if min(mask.shape) < 2 or mask.all():
            continue  # an object that fills a block has no surface in it
        vertices, faces, _, _ = marching_cubes(mask, 0.5, method="lorensen", allow_degenerate=False)
        vertices = vertices.astype(np.float64) + [part.start for part in grown]
        if len(faces):
            fixed = ((vertices == 0) | (vertices == last)).any(axis=1)
            of = np.zeros(len(vertices), np.int64)
            yield int(ids[number]), Mesh(vertices * voxel_size_nm, faces.astype(np.int64), fixed, of)


def batches(meshes: Iterable[tuple[_Key, Mesh]], most: int) -> Iterator[dict[_Key, Mesh]]:
    """Yield several meshes at a time, of about so many triangles."""
    batch: dict[_Key, Mesh] = {}
    for one, mesh in meshes:
        if batch and sum(len(other.faces) for other in batch.values()) + len(mesh.faces) > most:
            yield batch
            batch = {}
        batch[one] = mesh
    if batch:
        yield batch


def simplified(meshes: Mapping[_Key, Mesh], *, error_nm: float) -> tuple[dict[_Key, Mesh], float]:
    """Return each mesh with fewer triangles, and how far the farthest vertex is from its other mesh."""
    numbered = [
        Mesh(mesh.vertices, mesh.faces, mesh.fixed, np.full(len(mesh.vertices), number))
        for number, mesh in enumerate(meshes.values())
    ]
    whole, found = simplify(joined(numbered), error=error_nm)
    small: dict[_Key, Mesh] = {}
    for number, one in enumerate(meshes):
        chosen = np.zeros(len(meshes), bool)
        chosen[number] = True
        small[one] = whole.select(chosen)
    return small, found


def put_together(pieces: Iterable[Piece], voxel_size_nm: NDArray[np.float64], most: int) -> Iterator[Mesh]:
    """Yield an object in nm, in parts of about so many triangles at most; vertices that pieces share are one.

    Fixed is what lies between two parts.
    """
    part: list[Piece] = []
    for piece in pieces:
        if part and sum(len(other.links) for other in part) + len(piece.links) > most:
            yield _stitched(part, voxel_size_nm)
            part = []
        part.append(piece)
    if part:
        yield _stitched(part, voxel_size_nm)


def _stitched(pieces: list[Piece], voxel_size_nm: NDArray[np.float64]) -> Mesh:
    points = np.concatenate([piece.points for piece in pieces])
    starts = np.cumsum([0, *(len(piece.points) for piece in pieces[:-1])])
    faces = np.concatenate([piece.links.astype(np.int64) + start for piece, start in zip(pieces, starts, strict=True)])
    shared = np.concatenate([piece.extra for piece in pieces])
    number = np.cumsum(~shared) - 1
    at, where = np.unique(points[shared], axis=0, return_inverse=True)
    number[shared] = np.count_nonzero(~shared) + where.ravel()
    vertices = np.concatenate([points[~shared], at]) * voxel_size_nm
    faces = number[faces]
    return Mesh(vertices, faces, _at_border(faces, len(vertices)), np.zeros(len(vertices), np.int64))


def _at_border(faces: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return which vertices have an edge that is in one triangle."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys, times = np.unique(edges.min(axis=1) * count + edges.max(axis=1), return_counts=True)
    border = np.zeros(count, bool)
    for ends in np.divmod(keys[times == 1], count):
        border[ends] = True
    return border
