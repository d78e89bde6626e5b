"""Which boxes of a volume are annotated, as its mask or labels say: filled ones as they are, scribbles by section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from connectomics_zoo.train.annotated import read_edges, tiles
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader

FILLED = 0.5
"""Fraction of the boxes around connected annotation from which on they are boxes, not scribbles."""

MOST_BOXES = 4000
"""Boxes around connected annotation; beyond, all of it is in one box."""


@dataclass(frozen=True)
class AnnotatedBox:
    """A box in the volume's own voxels."""

    box: Box
    voxels: int
    """How many of it are annotated."""


def find_boxes(reader: PairReader, whole: Box) -> list[AnnotatedBox]:
    """Return boxes in `whole` that do not touch each other and hold all of its annotation.

    They are those around what is connected. Scribbles, which fill less than half of these or are what is not
    `unlabelled`, are one box in a section and in sections beside each other.
    """
    found = _joined([one for tile in tiles(whole, read_edges(whole.shape, (1, 1, 1))) for one in _pieces(reader, tile)])
    is_filled = sum(one.voxels for one in found) >= FILLED * sum(one.box.voxels for one in found)
    if reader.data.unlabelled is not None or not is_filled:
        found = _joined(found, axes=(0,))
    return sorted(found, key=lambda one: one.box.start)


def count_along(reader: PairReader, whole: Box, axis: int) -> NDArray[np.int64]:
    """Return how many voxels of `whole` are annotated at each place along an axis."""
    if reader.mask is None and reader.data.unlabelled is None:
        return np.full(whole.shape[axis], whole.voxels // whole.shape[axis], dtype=np.int64)
    counts = np.zeros(whole.shape[axis], dtype=np.int64)
    others = tuple(other for other in range(3) if other != axis)
    for tile in tiles(whole, read_edges(whole.shape, (1, 1, 1))):
        place = tile.relative_to(whole.start).slices[axis]
        counts[place] += np.count_nonzero(reader.read_volume_truth(tile).anywhere, axis=others)
    return counts


def _pieces(reader: PairReader, tile: Box) -> list[AnnotatedBox]:
    """Return the boxes around what is connected in a tile, by faces, edges or corners."""
    annotated = reader.read_volume_truth(tile).anywhere
    if not annotated.any():
        return []
    if annotated.all():
        return [AnnotatedBox(tile, tile.voxels)]
    numbers, count = ndimage.label(annotated, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:].tolist()
    places = [[(axis.start, axis.stop) for axis in place] for place in ndimage.find_objects(numbers)]
    return [
        AnnotatedBox(Box.of_ranges(place).moved(tile.start), size) for place, size in zip(places, sizes, strict=True)
    ]


def _joined(boxes: list[AnnotatedBox], *, axes: tuple[int, ...] = (0, 1, 2)) -> list[AnnotatedBox]:
    """Return boxes with those in one that share or touch each other along `axes`, until none do."""
    while len(boxes) > 1:
        if len(boxes) > MOST_BOXES:
            return [_around(boxes)]
        starts, stops = (np.array([getattr(one.box, end) for one in boxes])[:, axes] for end in ("start", "stop"))
        touches = ((starts[:, None] <= stops[None]) & (starts[None] <= stops[:, None])).all(axis=2)
        count, group = connected_components(touches, directed=False)
        if count == len(boxes):
            break
        boxes = [_around([boxes[member] for member in np.flatnonzero(group == number)]) for number in range(count)]
    return boxes


def _around(boxes: Iterable[AnnotatedBox]) -> AnnotatedBox:
    members = list(boxes)
    ranges = [
        (min(one.box.start[axis] for one in members), max(one.box.stop[axis] for one in members)) for axis in range(3)
    ]
    return AnnotatedBox(Box.of_ranges(ranges), sum(one.voxels for one in members))
