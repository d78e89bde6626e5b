"""Labels with what is known of them: where they are annotated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.label_look import clean_labels
from connectomics_zoo.volumes.volume import Volume


class Truth(NamedTuple):
    """Labels, and where they are such."""

    labels: NDArray[Any]
    """(Z, Y, X), 0 where not annotated; of several label volumes (V, Z, Y, X)."""
    annotated: NDArray[np.bool_]
    """Of the same shape."""

    @property
    def largest(self) -> NDArray[Any]:
        """The labels (Z, Y, X), of several volumes the largest."""
        return self.labels if self.labels.ndim == 3 else self.labels.max(axis=0)

    @property
    def anywhere(self) -> NDArray[np.bool_]:
        """Where (Z, Y, X) any of the label volumes is annotated."""
        return self.annotated if self.annotated.ndim == 3 else np.logical_or.reduce(self.annotated)


def join_truths(truths: Sequence[Truth]) -> Truth:
    """Return what several label volumes say of the same voxels as one truth (V, Z, Y, X); that of one as it is."""
    if len(truths) == 1:
        return truths[0]
    # int64 and uint64 together would become floats; what is negative was not annotated, and is 0.
    is_mixed = len({truth.labels.dtype.kind for truth in truths} - {"b"}) > 1
    labels = [truth.labels.astype(np.uint64) if is_mixed else truth.labels for truth in truths]
    return Truth(np.stack(labels), np.stack([truth.annotated for truth in truths]))


def read_truth(
    label: Volume,
    mask: Volume | None,
    box: Box,
    *,
    unlabelled: int | None,
    background: int | None = None,
    ignored: Sequence[int] = (),
    regions: Sequence[Box] | None = None,
) -> Truth:
    """Return the labels of `box` in the volume's own voxels, and where they are annotated.

    Args:
        label: the label volume.
        mask: a volume that is 0 where nothing is annotated, None where there is none.
        box: the voxels.
        unlabelled: the label of voxels that are not annotated.
        background: a label that is background, beside 0.
        ignored: labels that stay as they are and count for nothing.
        regions: what is annotated, of which alone labels are read; None is all.

    Raises:
        VolumeError: it cannot be read, or has negative labels.
    """
    if regions is not None and not any(region.contains(box) for region in regions):
        read = partial(
            read_truth, label, mask, unlabelled=unlabelled, background=background, ignored=ignored, regions=None
        )
        return _assembled(box, [region.intersection(box) for region in regions if region.overlaps(box)], label, read)
    labels = label.read_plain(box)
    annotated = np.ones(labels.shape, dtype=bool) if mask is None else mask.read_plain(box) != 0
    if unlabelled is not None:
        annotated &= labels != unlabelled
        ignored = (*ignored, unlabelled)
    labels = clean_labels(labels, unlabelled=ignored, location=label.location)
    labels = with_background(labels, background)
    if not annotated.all():
        labels = np.where(annotated, labels, np.zeros((), labels.dtype))
    return Truth(labels, annotated)


def with_background(labels: NDArray[Any], background: int | None) -> NDArray[Any]:
    """Return labels with 0 for the one that is background beside it, if there is one."""
    return labels if background is None else np.where(labels == background, np.zeros((), labels.dtype), labels)


def swapped_background(
    read: Callable[[Box], NDArray[Any]], *, background: int | None, unlabelled: int | None
) -> tuple[Callable[[Box], NDArray[Any]], int | None]:
    """Return what reads labels with 0 for `background`, and the label that then means "not annotated".

    Where that is 0, the two change places.

    Raises:
        VolumeError: by what reads them, of labels whose type cannot hold the background.
    """
    if background is None:
        return read, unlabelled

    def read_swapped(box: Box) -> NDArray[Any]:
        labels = read(box)
        if labels.dtype.kind in "iu" and background > np.iinfo(labels.dtype).max:
            raise VolumeError(
                f"the background is the label {background}, which labels of {labels.dtype} never are: give one that "
                "they have."
            )
        zero = labels == 0
        labels = with_background(labels, background)
        return np.where(zero, np.asarray(background, labels.dtype), labels) if unlabelled == 0 else labels

    return read_swapped, background if unlabelled == 0 else unlabelled


def _assembled(box: Box, parts: Sequence[Box], label: Volume, read: Callable[[Box], Truth]) -> Truth:
    """Return what `read` returns of `parts`, and nothing annotated in the rest of `box`."""
    labels, annotated = np.zeros(box.shape, label.dtype), np.zeros(box.shape, dtype=bool)
    for part in parts:
        place = part.relative_to(box.start).slices
        labels[place], annotated[place] = read(part)
    return Truth(labels, annotated)
