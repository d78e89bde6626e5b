"""How the values of a prediction's channels lie on disk: floats as they are, bytes on a scale of each channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.prediction import PROBABILITY, Scale, scale_of
from connectomics_zoo.volumes.volume import Volume


def store_values(values: NDArray[np.float32], *, task: TaskSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return channel values (C, Z, Y, X) as they are stored.

    In uint8, p in 0..1 becomes round(255 p), and v in -1..1 after a tanh round(127.5 (v + 1)); floats stay as they are.
    """
    if dtype != np.uint8:
        return values.astype(dtype, copy=False)
    scaled: NDArray[np.float32] = values * np.float32(255)
    for channel, (low, high) in zip(scaled, scale_of(task), strict=True):
        if (low, high) != PROBABILITY:
            channel -= np.float32(255 * low)
            channel /= np.float32(high - low)
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def read_values(
    stored: NDArray[Any], *, task: TaskSpec, location: str, scale: tuple[Scale, ...] | None = None
) -> NDArray[np.float32]:
    """Return what a prediction (C, Z, Y, X) on disk stands for.

    Args:
        stored: its values there.
        task: the task that it was predicted for.
        location: names it in errors.
        scale: what 0 and 255 of uint8 stand for in each channel, as it says; by default what `scale_of` says.

    Raises:
        VolumeError: it has another number of channels, another data type, or values that no activation makes.
    """
    if len(stored) != len(task.channels):
        raise VolumeError(
            f"{location}: has {len(stored)} channel(s), and the task {task.name} has {len(task.channels)}: give the "
            "task that it was predicted for."
        )
    if stored.dtype != np.uint8 and stored.dtype.kind != "f":
        raise VolumeError(
            f"{location}: holds {stored.dtype}, a prediction is uint8 (255 for 1) or floats: predict it with zoo "
            "predict --output probability."
        )
    if stored.dtype == np.uint8:
        scales = scale_of(task, stated=scale)
        if len(scales) != len(stored):
            raise VolumeError(
                f"{location}: says the scale of {len(scales)} channel(s), and has {len(stored)}: predict it again."
            )
        values = np.empty(stored.shape, np.float32)
        for number, one in enumerate(scales):
            values[number] = read_bytes(stored[number], scale=one)
        return values
    values = stored.astype(np.float32)
    for channel, spec in zip(values, task.channels, strict=True):
        is_signed = spec.activation == "tanh"
        if spec.activation != "none":
            low, high = float(channel.min()), float(channel.max())
            # float16 and blending leave a rounding error.
            if low < (-1 if is_signed else 0) - 1e-3 or high > 1 + 1e-3:
                raise VolumeError(
                    f"{location}: the channel {spec.name!r} holds values from {low:g} to {high:g}, after "
                    f"{spec.activation} they lie in {'-1..1' if is_signed else '0..1'}: predict it again for the task "
                    f"{task.name}."
                )
    return values


def read_bytes(stored: NDArray[np.uint8], *, scale: Scale) -> NDArray[np.float32]:
    """Return the values that bytes stand for."""
    low, high = scale
    values = stored.astype(np.float32)
    values /= np.float32(255 / (high - low))
    values += np.float32(low)
    return values


def as_byte(value: float, *, scale: Scale) -> float:
    """Return where `value` lies among the bytes of uint8, without rounding: 255 p in the scale of probabilities."""
    low, high = scale
    return 255 * (value - low) / (high - low)


def read_prediction(volume: Volume, box: Box, *, task: TaskSpec) -> NDArray[np.float32]:
    """Return the values (C, Z, Y, X) of a part of a prediction.

    Args:
        volume: the prediction.
        box: the part.
        task: the task that it was predicted for.

    Raises:
        VolumeError: it cannot be read, or is no prediction for that task.
        SpecError: what it says of itself is not understood.
    """
    scale = volume.stored().scale
    stored = volume.read(box)
    stored = stored if stored.ndim == 4 else stored[np.newaxis]
    return read_values(stored, task=task, location=volume.location, scale=scale)
