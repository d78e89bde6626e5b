"""Prediction and truth as whole numbers, block by block; and the truth as connected components."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import LimitError, VolumeError
from connectomics_zoo.tasks.targets.labels import connected_objects
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import LabelLook, clean_labels
from connectomics_zoo.volumes.memory import available_bytes

BLOCK = (32, 512, 512)
"""Voxels (z, y, x) of both volumes that are in memory at a time."""


_RELABEL_BYTES = 24
"""A voxel, to find connected components: the labels and the components."""


def relabelled(
    true: Volume, mask: Volume | None, box: Box, *, ignored: Sequence[int], look: LabelLook
) -> Callable[[Box], NDArray[Any]]:
    """Return what reads the connected components of the truth in `box`, and `IGNORED` for ignored labels.

    Where it is not annotated, there is no object. `look` sees the labels as they are.

    Raises:
        LimitError: they do not fit into the memory.
    """
    needed, available = box.voxels * _RELABEL_BYTES, available_bytes()
    if available is not None and needed > available:
        raise LimitError(
            f"{true.location}: labelling {' x '.join(map(str, box.shape))} voxels takes about "
            f"{needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are free: score a part, or "
            "label its objects first."
        )
    labels = _whole(_plain(true.read(box)), location=true.location)
    known = None if mask is None else mask.read_plain(box) != 0
    for first in range(0, len(labels), BLOCK[0]):
        layer = slice(first, first + BLOCK[0])
        look.add(labels[layer], None if known is None else known[layer])
    labels = clean_labels(labels, unlabelled=ignored, location=true.location)
    if known is not None:
        labels = np.where(known, labels, np.zeros((), labels.dtype))
    labels = connected_objects(labels, ignored=ignored)
    return lambda part: labels[part.relative_to(box.start).slices]


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
    corners = (range(first, stop, edge) for (first, stop), edge in zip(box.ranges, BLOCK, strict=True))
    for corner in itertools.product(*corners):
        block = Box.of_shape(BLOCK, start=corner).intersection(box)
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
