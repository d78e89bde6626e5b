"""Labels with what is known of them: where they are annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import clean_labels
from connectomics_zoo.volumes.volume import Volume


class Truth(NamedTuple):
    """Labels, and where they are such."""

    labels: NDArray[Any]
    """(Z, Y, X), 0 where not annotated; of several label volumes (V, Z, Y, X)."""
    annotated: NDArray[np.bool_]
    """Of the same shape."""


def join_truths(truths: Sequence[Truth]) -> Truth:
    """Return what several label volumes say of the same voxels as one truth (V, Z, Y, X); that of one as it is."""
    if len(truths) == 1:
        return truths[0]
    # int64 and uint64 together would become floats; what is negative was not annotated, and is 0.
    is_mixed = len({truth.labels.dtype.kind for truth in truths} - {"b"}) > 1
    labels = [truth.labels.astype(np.uint64) if is_mixed else truth.labels for truth in truths]
    return Truth(np.stack(labels), np.stack([truth.annotated for truth in truths]))


def read_truth(
    label: Volume, mask: Volume | None, box: Box, *, unlabelled: int | None, ignored: Sequence[int] = ()
) -> Truth:
    """Return the labels of `box` in the volume's own voxels, and where they are annotated.

    Args:
        label: the label volume.
        mask: a volume that is 0 where nothing is annotated, None where there is none.
        box: the voxels.
        unlabelled: the label of voxels that are not annotated.
        ignored: labels that stay as they are and count for nothing.

    Raises:
        VolumeError: it cannot be read, or has negative labels.
    """
    labels = label.read_plain(box)
    annotated = np.ones(labels.shape, dtype=bool) if mask is None else mask.read_plain(box) != 0
    if unlabelled is not None:
        annotated &= labels != unlabelled
        ignored = (*ignored, unlabelled)
    labels = clean_labels(labels, unlabelled=ignored, location=label.location)
    if not annotated.all():
        labels = np.where(annotated, labels, np.zeros((), labels.dtype))
    return Truth(labels, annotated)
