"""How many voxels have each pair of labels in two volumes: sparse, counted block by block and merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.label_look import is_one_of

MERGE_ABOVE = 4_000_000
"""Pairs that are collected before they are merged, so that memory follows the number of different pairs."""

_DENSE_TABLE = 2**20
"""Largest number of possible pairs that are counted in a full table rather than by sorting."""


@dataclass(frozen=True)
class Contingency:
    """The pairs of labels that occur, each once, and their voxels."""

    prediction: NDArray[Any]
    """The pairs' labels in the prediction."""
    truth: NDArray[Any]
    """The pairs' labels in the truth."""
    counts: NDArray[np.int64]
    """Voxels of each pair."""

    @property
    def voxels(self) -> int:
        """Voxels in all pairs."""
        return int(self.counts.sum())

    def select(self, keep: NDArray[np.bool_]) -> Contingency:
        """Return the pairs where `keep` is true."""
        return Contingency(self.prediction[keep], self.truth[keep], self.counts[keep])


def leave_out(table: Contingency, ignored: Sequence[int], *, truth: str) -> Contingency:
    """Return the pairs whose label in the truth is none of `ignored`; `truth` names it in errors.

    Raises:
        VolumeError: no pair is left.
    """
    counted = table.select(~is_one_of(table.truth, ignored))
    if counted.voxels == 0:
        labels = ", ".join(str(label) for label in ignored)
        raise VolumeError(
            f"{truth}: every annotated voxel has the label {labels}, which is ignored, so nothing can be scored."
        )
    return counted


def count_pairs(prediction: NDArray[Any], truth: NDArray[Any]) -> Contingency:
    """Return the pairs in two blocks of the same shape, whole numbers or bool."""
    labels, true_labels = prediction.ravel(), truth.ravel()
    if not labels.size:
        return Contingency(labels, true_labels, np.zeros(0, dtype=np.int64))
    low = min(int(labels.min()), int(true_labels.min()))
    width, height = int(labels.max()) + 1, int(true_labels.max()) + 1
    if low >= 0 and width * height <= _DENSE_TABLE:
        table = np.bincount(labels.astype(np.intp) * height + true_labels.astype(np.intp))
        pairs = np.flatnonzero(table)
        return Contingency(
            (pairs // height).astype(prediction.dtype), (pairs % height).astype(truth.dtype), table[pairs]
        )
    # Labels run along x: what is sorted are runs, many times fewer than voxels.
    starts = np.flatnonzero(np.append(True, (labels[1:] != labels[:-1]) | (true_labels[1:] != true_labels[:-1])))
    lengths = np.diff(np.append(starts, labels.size))
    return _merged(labels[starts], true_labels[starts], lengths)


def merge_pairs(parts: Iterable[Contingency]) -> Contingency:
    """Return the sum of `parts`, of which there is at least one, in the order of their labels."""
    collected: list[Contingency] = []
    size = 0
    limit = MERGE_ABOVE
    for part in parts:
        collected.append(part)
        size += part.counts.size
        if size > limit:
            collected = [_concatenated(collected)]
            size = collected[0].counts.size
            # Where almost every pair is new, merging again after each block would cost more than it saves.
            limit = max(MERGE_ABOVE, 2 * size)
    return _concatenated(collected)


def _concatenated(parts: list[Contingency]) -> Contingency:
    return _merged(
        np.concatenate([part.prediction for part in parts]),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def _merged(prediction: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.int64]) -> Contingency:
    order = np.lexsort((truth, prediction))
    prediction, truth, counts = prediction[order], truth[order], counts[order]
    if not counts.size:
        return Contingency(prediction, truth, counts)
    starts = np.flatnonzero(np.append(True, (prediction[1:] != prediction[:-1]) | (truth[1:] != truth[:-1])))
    return Contingency(prediction[starts], truth[starts], np.add.reduceat(counts, starts).astype(np.int64))
