"""A prediction on disk: what it says of itself, and how the values of its channels lie there.

Every format carries the same attributes; a TIFF has them in its description. `content`, `task` (a spec as JSON),
`first_voxel` and `whole_shape` may be written by anybody, `zoo_prediction` (JSON) has the rest.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.files.json_text import parse_json
from connectomics_zoo.files.yaml import MAX_BYTES
from connectomics_zoo.schema.provenance import Provenance
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.placement import Placement

if TYPE_CHECKING:
    from connectomics_zoo.volumes.volume import Volume

Content = Literal["probability", "label", "instances"]
"""What the values of a volume are: probabilities (in uint8, 255 stands for 1), labels, or labels of which each is an
object; a file with channels that are none of them declares nothing."""

Scale = tuple[float, float]
"""The values that 0 and 255 of uint8 stand for."""

PROBABILITY: Scale = (0.0, 1.0)

DEFAULT_CUT = 0.5
"""The threshold of probabilities of which no task is known."""

_RECORD = "zoo_prediction"
_TEXTS = ("task", _RECORD)
_FORMAT = 1
"""Version of what `zoo_prediction` holds; another one has another meaning."""


@dataclass(frozen=True)
class StoredPrediction:
    """What a prediction, or labels and objects made of one, say of themselves; None is what they do not say."""

    content: Content | None = None
    """What the values are."""
    task: TaskSpec | None = None
    """The task that the channels are of."""
    placement: Placement | None = None
    """Where it lies in the volume that was predicted; None also where it is all of that."""
    scale: tuple[Scale, ...] | None = None
    """Of each channel in uint8, the values that 0 and 255 stand for."""
    provenance: Provenance | None = None
    """How it came to be."""

    @property
    def cut(self) -> float:
        """Value above which a channel says yes: that of the task, else `DEFAULT_CUT`."""
        return DEFAULT_CUT if self.task is None else self.task.decode.cut

    @property
    def first_scale(self) -> Scale:
        """The scale of the first channel, that of probabilities where none is stated."""
        return PROBABILITY if self.scale is None else self.scale[0]


def to_attributes(said: StoredPrediction) -> dict[str, str | list[int]]:
    """Return the attributes that say it, as a file carries them."""
    attributes: dict[str, str | list[int]] = {} if said.content is None else {"content": said.content}
    if said.task is not None:
        attributes["task"] = _as_text(said.task.model_dump(mode="json", exclude_none=True))
    if said.placement is not None:
        attributes["first_voxel"] = list(said.placement.box.start)
        attributes["whole_shape"] = list(said.placement.whole_shape)
    record: dict[str, Any] = {}
    if said.scale is not None:
        record["scale"] = said.scale
    if said.provenance is not None:
        record["provenance"] = said.provenance.model_dump(mode="json", exclude_none=True)
    return attributes | ({_RECORD: _as_text({"schema_version": _FORMAT, **record})} if record else {})


def _as_text(document: Mapping[str, Any]) -> str:
    """Return one line of JSON, in ASCII."""
    return json.dumps(document, separators=(",", ":"))


def declared_content(attributes: Mapping[str, Any], *, dtype: np.dtype[Any]) -> Content | None:
    """Return the content that a file declares, or None if it is unknown or the data type cannot hold it."""
    text = _text(attributes.get("content"))
    fits = dtype.kind == "f" or dtype == np.uint8 if text == "probability" else dtype.kind != "f"
    return cast("Content", text) if text in get_args(Content) and fits else None


def declared_placement(attributes: Mapping[str, Any], *, shape: tuple[int, int, int]) -> Placement | None:
    """Return where a volume of `shape` lies in the one that it was predicted from, or None where it does not say."""
    first, whole = (_whole_numbers(attributes.get(name)) for name in ("first_voxel", "whole_shape"))
    return None if first is None or whole is None else Placement(Box.of_shape(shape, start=first), whole)


def _whole_numbers(values: object) -> tuple[int, int, int] | None:
    """Return three whole numbers from 0 up, and anything else as None."""
    numbers = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(numbers, list) or len(numbers) != 3:
        return None
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return None
    z, y, x = numbers
    return z, y, x


def declared_texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that `read_stored` reads, by attribute; what is no text, or larger than a spec, is none."""
    texts = {name: _text(attributes[name]) for name in _TEXTS if isinstance(attributes.get(name), str | bytes)}
    return {name: text for name, text in texts.items() if 0 < len(text) <= MAX_BYTES}


def read_stored(
    texts: Mapping[str, str], *, content: Content | None, placement: Placement | None, location: str
) -> StoredPrediction:
    """Return what a volume says of itself.

    A provenance that is not understood is unknown, since nothing depends on it; files of later versions may have one.

    Args:
        texts: what `declared_texts` gives.
        content: what `declared_content` gives.
        placement: where the volume lies in another one.
        location: names the volume in errors.

    Raises:
        SpecError: the task is no valid spec, or how the values are stored is not understood.
    """
    task = read_task(texts["task"], source=f"the task in {location}") if "task" in texts else None
    if _RECORD not in texts:
        return StoredPrediction(content, task, placement)
    source = f"the attribute {_RECORD} of {location}"
    record = parse_json(texts[_RECORD], source=source)
    if record.get("schema_version") != _FORMAT:
        raise SpecError(
            f"{source}: has schema_version {record.get('schema_version')!r}, and this version reads {_FORMAT}: use the "
            "version of connectomics-zoo that wrote it."
        )
    scale = None if record.get("scale") is None else _as_scale(record["scale"], source=source)
    return StoredPrediction(content, task, placement, scale, _as_provenance(record.get("provenance")))


def read_task(text: str, *, source: str) -> TaskSpec:
    """Return the task in the `text` that a prediction carries; `source` names it in errors.

    Raises:
        SpecError: it is no valid spec.
    """
    return validate(TaskSpec, parse_json(text, source=source), source=source)


def _as_scale(value: Any, *, source: str) -> tuple[Scale, ...]:
    pairs = value if isinstance(value, list) else []
    if not pairs or not all(_is_range(pair) for pair in pairs):
        raise SpecError(f"{source}: scale must be [low, high] for each channel, predict it again.")
    return tuple((float(low), float(high)) for low, high in pairs)


def _is_range(pair: Any) -> bool:
    """Whether it is two numbers, the smaller one first, that float32 can hold."""
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        return False
    return bool(-1e30 < pair[0] < pair[1] < 1e30)


def _as_provenance(value: Any) -> Provenance | None:
    try:
        return None if value is None else validate(Provenance, value, source="provenance")
    except SpecError:
        return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def this_program() -> str:
    """Return this program and its version, as a provenance names it."""
    return f"connectomics-zoo {importlib.metadata.version('connectomics-zoo')}"


def scale_of(task: TaskSpec) -> tuple[Scale, ...]:
    """Return the values that 0 and 255 of uint8 stand for in each channel: -1 and 1 after a tanh, else 0 and 1."""
    return tuple((-1.0, 1.0) if channel.activation == "tanh" else PROBABILITY for channel in task.channels)


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
        scales = scale_of(task) if scale is None else scale
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
