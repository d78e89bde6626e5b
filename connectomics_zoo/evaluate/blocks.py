"""Prediction and truth as whole numbers, block by block; and the truth as connected components."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.tasks.targets.labels import IGNORED, connected_objects
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import LabelLook, clean_labels

BLOCK = (32, 512, 512)
"""Voxels (z, y, x) of both volumes that are in memory at a time."""


def blocks_of(box: Box) -> Iterator[Box]:
    """Yield the blocks of a box, those along x first."""
    corners = (range(first, stop, edge) for (first, stop), edge in zip(box.ranges, BLOCK, strict=True))
    for corner in itertools.product(*corners):
        yield Box.of_shape(BLOCK, start=corner).intersection(box)


def relabelled(
    true: Volume,
    mask: Volume | None,
    box: Box,
    *,
    read: Callable[[Box], NDArray[Any]],
    ignored: Sequence[int],
    look: LabelLook,
) -> Callable[[Box], NDArray[Any]]:
    """Return what reads the connected components of the truth in a block of `box`, and `IGNORED` for ignored labels.

    Where it is not annotated, there is no object. `read` reads the truth, and `look` sees the labels as they are. All
    blocks are read once before: in memory are a block, a section of the box, and 24 bytes for each component of a
    block.
    """

    def read_parts(block: Box, *, seen_by: LabelLook | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the labels of a block, and the components in it alone."""
        labels = _whole(_plain(read(block)), location=true.location)
        known = None if mask is None else mask.read_plain(block) != 0
        if seen_by is not None:
            seen_by.add(labels, known)
        labels = clean_labels(labels, unlabelled=ignored, location=true.location)
        if known is not None:
            labels = np.where(known, labels, np.zeros((), labels.dtype))
        return labels, connected_objects(labels, ignored=ignored)

    first, group = _join_components(box, partial(read_parts, seen_by=look))

    def read_joined(block: Box) -> NDArray[np.int64]:
        _, parts = read_parts(block)
        numbers = np.where(parts > 0, parts + first[block.start], 0)
        return np.where(parts == IGNORED, np.int64(IGNORED), group[numbers])

    return read_joined


def _join_components(
    box: Box, read: Callable[[Box], tuple[NDArray[Any], NDArray[np.int64]]]
) -> tuple[dict[tuple[int, int, int], int], NDArray[np.int64]]:
    """Return how many components there are before each block, and the number of each one's whole, 0 for background."""
    from bioimage_cpp.utils import UnionFind

    first, count = dict[tuple[int, int, int], int](), 0
    faces = dict[tuple[int, Box], tuple[NDArray[Any], NDArray[np.int64]]]()
    pairs = [np.zeros((0, 2), np.int64)]
    for block in blocks_of(box):
        labels, parts = read(block)
        first[block.start] = count
        numbers = np.where(parts > 0, parts + count, 0)
        for axis, name in enumerate("zyx"):
            face = block.replace(**{name: (block.start[axis], block.start[axis])})
            if (axis, face) in faces:
                before, its_numbers = faces.pop((axis, face))
                same = (before == np.take(labels, 0, axis)) & (its_numbers > 0) & (np.take(numbers, 0, axis) > 0)
                both = np.stack([its_numbers[same], np.take(numbers, 0, axis)[same]], axis=1)
                pairs.append(np.unique(both, axis=0))
            if block.stop[axis] < box.stop[axis]:
                face = block.replace(**{name: (block.stop[axis], block.stop[axis])})
                faces[axis, face] = np.take(labels, -1, axis), np.take(numbers, -1, axis)
        count += int(parts.max(initial=0))
    sets = UnionFind(count + 1)
    sets.merge(np.concatenate(pairs).astype(np.uint64))
    return first, np.asarray(sets.element_labeling()).astype(np.int64)


def read_blocks(
    predicted: Volume,
    true: Volume,
    mask: Volume | None,
    *,
    read: Callable[[Box], NDArray[Any]],
    box: Box,
    offset: tuple[int, int, int],
    cut: float | None,
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]]:
    """Read prediction and truth (by `read`) as whole numbers, block by block, and where the truth is annotated.

    Floats become 1 above `cut`.
    """
    for block in blocks_of(box):
        values = predicted.read(block.relative_to(offset))
        if cut is not None:
            values = _thresholded(values, cut, location=predicted.location)
        known = None if mask is None else mask.read_plain(block) != 0
        yield _plain(values), _whole(_plain(read(block)), location=true.location), known


def _plain(block: NDArray[Any]) -> NDArray[Any]:
    """Without the axis of a single channel, and with bool as numbers."""
    block = block[0] if block.ndim == 4 else block
    return block.view(np.uint8) if block.dtype.kind == "b" else block


def _thresholded(values: NDArray[Any], cut: float, *, location: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise VolumeError(
            f"{location}: holds floats from {low:g} to {high:g}, probabilities lie in 0..1: apply the activation "
            "first, or save labels as whole numbers."
        )
    mask: NDArray[np.uint8] = (values > cut).astype(np.uint8)
    return mask


def _whole(labels: NDArray[Any], *, location: str) -> NDArray[Any]:
    if labels.dtype.kind != "f":
        return labels
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise VolumeError(f"{location}: the truth holds fractions, it must hold labels: save them as whole numbers.")
    return whole
