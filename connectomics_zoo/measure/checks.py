"""Labels as they are read to be measured, and what is refused because it holds none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes import Box, Volume
from connectomics_zoo.volumes.label_look import LabelLook, without_largest


def refuse_no_labels(volume: Volume) -> None:
    """Refuse what says itself that it holds no labels.

    Raises:
        VolumeError: it has channels, floats or probabilities.
    """
    if volume.channels not in (None, 1):
        raise VolumeError(
            f"{volume.location}: has {volume.channels} channels, and objects are measured in a label volume, which has "
            "one: make objects of them (zoo decode)."
        )
    if volume.dtype.kind == "f" or volume.content == "probability":
        kind = "probabilities" if volume.content == "probability" else "floats"
        raise VolumeError(
            f"{volume.location}: holds {kind} ({volume.dtype}), and objects are measured in labels, which are whole "
            "numbers: make objects of a prediction first (zoo decode)."
        )


def read_labels(
    volume: Volume, box: Box, look: LabelLook, *, inner: tuple[slice, slice, slice], read: Callable[[Box], NDArray[Any]]
) -> NDArray[Any]:
    """Return labels with 0 for all background; `look` sees those of the block itself, where it is not said what it is.

    Raises:
        VolumeError: there are negative ones.
    """
    values = read(box)
    values = values.view(np.uint8) if values.dtype.kind == "b" else values
    if volume.content is None and volume.dtype.kind != "b":
        look.add(values[inner])
    if values.dtype.kind == "i" and values.min() < 0:
        raise VolumeError(
            f"{volume.location}: holds the negative label {values.min()}, and objects have positive ones: save voxels "
            "without an object as 0."
        )
    return without_largest(values, unlabelled=())


def refuse_grey(volume: Volume, look: LabelLook) -> None:
    """Refuse a grey image, or probabilities in whole numbers.

    Raises:
        VolumeError: it looks like one.
    """
    if look.grey is not None:
        raise VolumeError(f"{volume.location}: {look.grey}.")
    if look.is_soft:
        low, high = min(look.values), max(look.values)
        raise VolumeError(
            f"{volume.location}: looks like probabilities or a soft mask, not like labels (its edges are ramps from "
            f"{low} to {high}): make objects of it first (zoo decode)."
        )
