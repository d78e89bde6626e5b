"""What blocks give of objects, on disk until the objects are put together: points, and links between them.

FOLDER/INDEX/ids.npy, spans.npy, points.npy, links.npy, extra.npy
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.files.atomic import output_errors


@dataclass(frozen=True)
class Piece:
    """What one block has of an object."""

    points: NDArray[Any]
    """(N, 3), (z, y, x)."""
    links: NDArray[Any]
    """(M, 2 or 3), rows of `points`."""
    extra: NDArray[Any]
    """(N,), a value for each point."""


@dataclass(frozen=True)
class Pieces:
    """The pieces of all blocks; each block has files of its own."""

    folder: Path
    """Where they are."""

    def write(self, index: int, pieces: Mapping[int, Piece]) -> None:
        """Write what a block has, by the ids of the objects.

        Raises:
            OutputError: the disk does not take it.
        """
        place = self.folder / str(index)
        with output_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / "ids.npy", np.array(list(pieces), np.uint64))
            lengths = [(len(piece.points), len(piece.links)) for piece in pieces.values()]
            np.save(place / "spans.npy", np.cumsum(np.array([(0, 0), *lengths], np.int64), axis=0))
            for name in ("points", "links", "extra"):
                arrays = [getattr(piece, name) for piece in pieces.values()]
                np.save(place / f"{name}.npy", np.concatenate(arrays) if arrays else np.empty(0))

    def find(self, blocks: Iterable[int]) -> Found:
        """Return where the pieces of each object are: 24 bytes of memory a piece."""
        loaded = [(block, np.load(self.folder / str(block) / "ids.npy")) for block in blocks]
        ids = np.concatenate([ids for _, ids in loaded])
        block = np.concatenate([np.full(len(ids), block) for block, ids in loaded])
        row = np.concatenate([np.arange(len(ids)) for _, ids in loaded])
        order = np.argsort(ids, kind="stable")
        return Found(self.folder, ids[order], block[order], row[order])


@dataclass(frozen=True)
class Found:
    """Where the pieces of each object are, in the order of the ids and blocks."""

    folder: Path
    ids: NDArray[np.uint64]
    blocks: NDArray[np.int64]
    rows: NDArray[np.int64]

    def of(self, one: int) -> Iterable[Piece]:
        """Yield the pieces of an object."""
        first, stop = (int(np.searchsorted(self.ids, np.uint64(one), side)) for side in ("left", "right"))
        for at in range(first, stop):
            place, row = self.folder / str(self.blocks[at]), int(self.rows[at])
            spans = np.load(place / "spans.npy", mmap_mode="r")
            (points, links), (points_stop, links_stop) = spans[row], spans[row + 1]
            yield Piece(
                np.array(np.load(place / "points.npy", mmap_mode="r")[points:points_stop]),
                np.array(np.load(place / "links.npy", mmap_mode="r")[links:links_stop]),
                np.array(np.load(place / "extra.npy", mmap_mode="r")[points:points_stop]),
            )
