"""Skeletons of objects: TEASAR in blocks, whose paths meet at the voxels between them, and what is put together.

Sato et al., TEASAR: tree-structure extraction algorithm for accurate and robust skeletons (Pacific Graphics 2000), as
bioimage-cpp has it in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

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
    return Piece(source.to_nm(points), links, radii)


def length_of(skeleton: Piece) -> float:
    """Return the length of all of its links."""
    ends = skeleton.points[skeleton.links.astype(np.int64)]
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())
