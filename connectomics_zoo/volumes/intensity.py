"""Scales grey values to 0..1, the same way in training and prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.sampling import random_blocks
from connectomics_zoo.volumes.volume import Volume

FILLED = 0.01
"""Integers wider than 8 bits whose values fill less of their type would all become one grey."""

_OPTION = "data.intensity_range=[low,high] (zoo predict: --intensity-range low,high)"


def scale_intensity(
    array: NDArray[Any], *, dtype: np.dtype[Any], intensity_range: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Return `array` with [low, high] mapped to [0, 1] and everything outside clipped, as float32.

    Nothing is measured on the array, so that any block of a volume is scaled as the whole volume is.

    Args:
        array: grey values, of any shape.
        dtype: the data type of the volume that they were read from.
        intensity_range: [low, high]; without it the range of the integer type, or 0 to 1 for floats.

    Raises:
        VolumeError: a value is not finite, or a float is outside 0..1 and there is no `intensity_range`.
    """
    if array.size == 0:
        return array.astype(np.float32)
    if dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        # A NaN anywhere makes both NaN.
        if not (np.isfinite(low) and np.isfinite(high)):
            raise VolumeError("the image has values that are NaN or infinite, replace them first.")
        if intensity_range is None and not (low >= 0 and high <= 1):
            raise VolumeError(
                f"the image is {dtype} with values from {low:g} to {high:g}, without a range they must lie in 0..1: "
                f"give {_OPTION}."
            )
    first, last = intensity_range or _default_range(dtype)
    if (first, last) == (0.0, 1.0) and dtype.kind in "bf":
        return np.clip(array.astype(np.float32), 0, 1)
    # float32 holds the integers up to 2**24 only; wider ones must not lose their low bits before the subtraction.
    wide = np.float64 if (dtype.kind in "iu" and dtype.itemsize > 2) or dtype == np.float64 else np.float32
    values = array.astype(wide)
    values -= wide(first)
    values *= wide(1 / (last - first))
    scaled: NDArray[np.float32] = np.clip(values, 0, 1, out=values).astype(np.float32, copy=False)
    return scaled


def _default_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "iu":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return 0.0, 1.0


def check_contrast(volume: Volume, box: Box, *, intensity_range: tuple[float, float] | None) -> None:
    """Refuse grey values of which the network would see one alone.

    Of large volumes, blocks are looked at.

    Raises:
        VolumeError: they fill next to nothing of their type and there is no `intensity_range`, or lie outside of it.
    """
    dtype = volume.dtype
    if intensity_range is None and (dtype.kind not in "iu" or dtype.itemsize == 1):
        return
    first, last = intensity_range or _default_range(dtype)
    low, high = np.inf, -np.inf
    for block in random_blocks(box)[0]:
        values = volume.read(block)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        if intensity_range is None and high - low >= FILLED * (last - first):
            return
        if intensity_range is not None and high > first and low < last:
            return
    if intensity_range is None:
        raise VolumeError(
            f"{volume.location}: holds {dtype} with values from {low:.0f} to {high:.0f}, which is less than "
            f"{FILLED:.0%} of what the type holds, so that the network would see one grey: say which values are black "
            f"and white, by {_OPTION}."
        )
    if low < high:
        raise VolumeError(
            f"{volume.location}: has values from {low:g} to {high:g}, all outside of the intensity range {first:g} to "
            f"{last:g}, so that the network would see one grey: give another {_OPTION}."
        )
