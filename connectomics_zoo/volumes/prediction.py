"""A prediction on disk: how the values of its channels lie there, and the task that it says they are of."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.files.yaml import parse_yaml
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.volumes.volume import Volume


def store_values(values: NDArray[np.float32], *, task: TaskSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return channel values (C, Z, Y, X) as they are stored.

    In uint8, p in 0..1 becomes round(255 p), and v in -1..1 after a tanh round(127.5 (v + 1)); floats stay as they are.
    """
    if dtype != np.uint8:
        return values.astype(dtype, copy=False)
    scaled: NDArray[np.float32] = values * np.float32(255)
    for channel, spec in zip(scaled, task.channels, strict=True):
        if spec.activation == "tanh":
            channel += 255
            channel /= 2
    np.clip(scaled, 0, 255, out=scaled)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def read_values(stored: NDArray[Any], *, task: TaskSpec, location: str) -> NDArray[np.float32]:
    """Return what a prediction (C, Z, Y, X) on disk stands for: p of 255 p, and v of 127.5 (v + 1) after a tanh.

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
    values = stored.astype(np.float32)
    for channel, spec in zip(values, task.channels, strict=True):
        is_signed = spec.activation == "tanh"
        if stored.dtype == np.uint8:
            channel /= np.float32(127.5 if is_signed else 255)
            if is_signed:
                channel -= 1
        elif spec.activation != "none":
            low, high = float(channel.min()), float(channel.max())
            # float16 and blending leave a rounding error.
            if low < (-1 if is_signed else 0) - 1e-3 or high > 1 + 1e-3:
                raise VolumeError(
                    f"{location}: the channel {spec.name!r} holds values from {low:g} to {high:g}, after "
                    f"{spec.activation} they lie in {'-1..1' if is_signed else '0..1'}: predict it again for the task "
                    f"{task.name}."
                )
    return values


DEFAULT_CUT = 0.5
"""The threshold of probabilities of which no task is known."""


def task_text(task: TaskSpec) -> str:
    """Return the spec as a prediction carries it: one line of JSON, without what is not set."""
    return json.dumps(task.model_dump(mode="json", exclude_none=True), separators=(",", ":"))


def cut_of(volume: Volume) -> float:
    """Return the value above which a channel of a prediction says yes: that of the task it carries, else `DEFAULT_CUT`.

    Raises:
        SpecError: the task is no valid spec.
    """
    if volume.task is None:
        return DEFAULT_CUT
    return read_task(volume.task, source=f"the task in {volume.location}").decode.cut


def read_task(text: str, *, source: str) -> TaskSpec:
    """Return the task in the `text` that a prediction carries; `source` names it in errors.

    Raises:
        SpecError: it is no valid spec.
    """
    document = parse_yaml(text, source=source)
    if not isinstance(document, dict):
        raise SpecError(f"{source}: holds {type(document).__name__}, a spec is a mapping of keys to values.")
    return validate(TaskSpec, document, source=source)
