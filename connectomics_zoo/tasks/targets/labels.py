"""What is done to a patch of labels before targets are made of it, and the faces between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as connected_parts

from connectomics_zoo.schema.task import LabelSpec

ANISOTROPIC = 2.0
"""Sections as thick as this many pixels, or thicker, are not compared with each other in boundary targets."""


def face_axes(voxel_size_nm: tuple[float, ...] | None) -> tuple[int, ...]:
    """Return the axes along which voxels are compared: not across sections, where these are thick or may be."""
    if voxel_size_nm is not None and voxel_size_nm[0] < ANISOTROPIC * voxel_size_nm[-1]:
        return (0, 1, 2)
    return (1, 2)


def prepare_labels(
    labels: NDArray[Any], annotated: NDArray[np.bool_], *, spec: LabelSpec, axes: tuple[int, ...]
) -> NDArray[Any]:
    """Return the labels (Z, Y, X) that targets are made of: 0 where not annotated, relabelled and eroded.

    What is not annotated is no edge of an object: nothing is eroded there.

    Args:
        labels: (Z, Y, X).
        annotated: (Z, Y, X), False where the label is not known.
        spec: what is done.
        axes: along which faces an object is eroded.
    """
    if not annotated.all():
        labels = np.where(annotated, labels, np.zeros((), labels.dtype))
    if spec.relabel:
        labels = connected_objects(labels)
    for _ in range(spec.erosion):
        edge, _unknown = find_faces(labels, annotated, axes=axes)
        labels = np.where(edge, np.zeros((), labels.dtype), labels)
    return labels


IGNORED = -1
"""Stands for every ignored label where others have new numbers."""


def true_objects(
    labels: NDArray[Any], *, spec: LabelSpec, ignored: Sequence[int] = ()
) -> tuple[NDArray[Any], Sequence[int]]:
    """Return the objects (Z, Y, X) in a truth, and the labels that are ignored in them.

    Labels are as they are, but of a mask, connected components are the objects where the task makes components objects
    (`labels.relabel`).
    """
    if spec.relabel and is_mask(labels, ignored=ignored):
        return connected_objects(labels, ignored=ignored), (IGNORED,) if ignored else ()
    return labels, ignored


def is_mask(labels: NDArray[Any], *, ignored: Sequence[int] = ()) -> bool:
    """Whether labels hold a single value but 0 and the ignored ones."""
    inside = labels[~is_one_of(labels, (0, *ignored))]
    return bool(inside.size and (inside == inside[0]).all())


def is_one_of(labels: NDArray[Any], ids: Sequence[int]) -> NDArray[np.bool_]:
    """Return where `labels` have one of `ids`, which may be any integers; `np.isin` would round large ones."""
    found = np.zeros(labels.shape, dtype=bool)
    for one in ids:
        found |= labels == one
    return found


def connected_objects(labels: NDArray[Any], *, ignored: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return the connected components of each label (Z, Y, X), numbered 1..N; those of two labels stay apart.

    Ignored labels are no objects, and `IGNORED`.
    """
    unknown = is_one_of(labels, ignored)
    known = np.where(unknown, np.zeros((), labels.dtype), labels)
    parts: NDArray[np.int64] = connected_parts(known, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    return np.where(unknown, np.int64(IGNORED), parts)


def find_faces(
    labels: NDArray[Any], annotated: NDArray[np.bool_], *, axes: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both voxels of every face between two labels along `axes`, and of every face to what is not annotated."""
    between = np.zeros(labels.shape, dtype=bool)
    unknown = np.zeros(labels.shape, dtype=bool)
    for axis in axes:
        first = tuple(slice(None, -1) if index == axis else slice(None) for index in range(labels.ndim))
        second = tuple(slice(1, None) if index == axis else slice(None) for index in range(labels.ndim))
        both = annotated[first] & annotated[second]
        different = (labels[first] != labels[second]) & both
        for side in (first, second):
            between[side] |= different
            unknown[side] |= ~both
    return between, unknown


def each_object(labels: NDArray[Any]) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.bool_]]]:
    """Yield for every label but 0 the box that it lies in, a voxel larger where there is one, and where in it."""
    values, numbers = np.unique(labels, return_inverse=True)
    # NumPy 2.0 alone gives them in the shape of the labels.
    numbers = numbers.reshape(labels.shape) + 1
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        if values[number - 1] == 0:
            continue
        z, y, x = (
            slice(max(part.start - 1, 0), min(part.stop + 1, size))
            for part, size in zip(box, labels.shape, strict=True)
        )
        yield (z, y, x), numbers[z, y, x] == number
