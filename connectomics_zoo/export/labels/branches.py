"""Skeletons of objects: TEASAR in blocks, whose paths meet at the voxels between them, and what is put together.

Sato et al., TEASAR: tree-structure extraction algorithm for accurate and robust skeletons (Pacific Graphics 2000), as
bioimage-cpp has it in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.export.labels.pieces import Piece, Pieces
from connectomics_zoo.export.labels.source import Source
from connectomics_zoo.export.labels.surfaces import with_next

SCALE, CONSTANT_NM = 1.5, 300.0
"""A path covers what is nearer to it than this many times its distance from the surface, and this much more: what
branches off within is none of its own. As in kimimaro, for neurons."""


@dataclass(frozen=True)
class BranchStage:
    """Makes the skeletons in a block; it can be pickled."""

    source: Source
    grid: BlockGrid
    pieces: Pieces

    def __call__(self, index: int, advance: Callable[[float], None]) -> None:
        """Make those of one block."""
        from bioimage_cpp.skeleton import distributed

        labels, origin = with_next(self.source, self.grid.box_of(index), is_closed=False)
        places = zip(self.grid.position(index), self.grid.counts, strict=True)
        faces = [
            (axis, side)
            for axis, (at, count) in enumerate(places)
            for side, is_open in (("low", at > 0), ("high", at + 1 < count))
            if is_open
        ]
        lies = {"origin": origin.tolist(), "spacing": self.source.voxel_size_nm}
        made = distributed.block_teasar_labels(
            labels,
            open_faces=faces,
            required_targets=distributed.block_border_targets_labels(labels, faces, **lies),
            scale=SCALE,
            constant=CONSTANT_NM,
            **lies,
        )
        self.pieces.write(index, {one: Piece(*fragment) for one, fragment in made.items()})


def put_together(pieces: Iterable[Piece], source: Source) -> Piece:
    """Return a skeleton of an object, its points (x, y, z) in nm, and for each the radius in nm."""
    from bioimage_cpp.skeleton import distributed

    parts = [(piece.points, piece.links, piece.extra) for piece in pieces]
    whole = distributed.merge_block_skeletons(parts)
    points, links, radii = distributed.minimum_spanning_forest(whole, spacing=source.voxel_size_nm)
    return without_twigs(Piece(source.to_nm(points), links.astype(np.int64), radii))


def without_twigs(skeleton: Piece) -> Piece:
    """Return a forest without the ends that lie within what the path that they branch off from covers.

    In one block TEASAR makes none; where a thick object meets many blocks, each of them makes some. The shortest one at
    each fork goes first, so that of a star the longest path is left.
    """
    links = skeleton.links
    reach = SCALE * skeleton.extra + CONSTANT_NM
    while True:
        twigs = _shortest_twigs(skeleton.points, links, reach)
        if not twigs:
            break
        gone = np.zeros(len(skeleton.points), bool)
        gone[twigs] = True
        links = links[~gone[links].any(axis=1)]
    kept = np.unique(links)
    if not len(kept):
        return skeleton
    alone = np.setdiff1d(np.arange(len(skeleton.points)), skeleton.links)  # of one voxel, or nearly
    kept = np.union1d(kept, alone)
    return Piece(skeleton.points[kept], np.searchsorted(kept, links), skeleton.extra[kept])


def _shortest_twigs(points: NDArray[Any], links: NDArray[Any], reach: NDArray[Any]) -> list[int]:
    """Return the points of the shortest end at each fork that is shorter than what the fork reaches."""
    near: dict[int, list[int]] = {}
    for one, other in links.tolist():
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    shortest: dict[int, tuple[float, list[int]]] = {}
    for end in [point for point, around in near.items() if len(around) == 1]:
        path, at = [end], near[end][0]
        while len(near[at]) == 2:
            path.append(at)
            at = next(point for point in near[at] if point != path[-2])
        length = float(np.linalg.norm(np.diff(points[[*path, at]], axis=0), axis=1).sum())
        if len(near[at]) > 2 and length < min(reach[at], shortest.get(at, (np.inf, []))[0]):
            shortest[at] = (length, path)
    return [point for _, path in shortest.values() for point in path]


def length_of(skeleton: Piece) -> float:
    """Return the length of all of its links."""
    ends = skeleton.points[skeleton.links.astype(np.int64)]
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())
