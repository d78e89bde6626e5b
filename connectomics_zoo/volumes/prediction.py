"""What a prediction on disk says of itself.

Every format carries the same attributes; a TIFF has them in its description. `content`, `task` (a spec as JSON),
`first_voxel` and `whole_shape` may be written by anybody, `zoo_prediction` (JSON) has the rest. `class_names` (JSON) is
for other programs: what each value of labels is called, or each channel of masks.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.files.json_text import parse_json
from connectomics_zoo.files.yaml import MAX_BYTES
from connectomics_zoo.schema.provenance import Provenance
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.metadata import as_list
from connectomics_zoo.volumes.placement import Placement

Content = Literal["probability", "label", "instances"]
"""What the values of a volume are: probabilities (in uint8, 255 stands for 1), labels, or labels of which each is an
object; a file with channels that are none of them declares nothing."""

Scale = tuple[float, float]
"""The values that 0 and 255 of uint8 stand for."""

PROBABILITY: Scale = (0.0, 1.0)

SIGNED: Scale = (-1.0, 1.0)
"""Of what a tanh gives."""

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
        """The scale of the first channel."""
        return scale_of(self.task, stated=self.scale)[0]


def refuse_spread(stored: StoredPrediction, *, location: str) -> None:
    """Refuse the spread of a prediction where the prediction itself is meant.

    Raises:
        VolumeError: the file says that it is a spread.
    """
    if stored.provenance is not None and stored.provenance.quantity == "spread":
        raise VolumeError(
            f"{location}: holds the spread of a prediction, as the file says, and not what was predicted: give the "
            "prediction."
        )


def scale_of(task: TaskSpec | None, *, stated: tuple[Scale, ...] | None = None) -> tuple[Scale, ...]:
    """Return the values that 0 and 255 of uint8 stand for in each channel.

    Args:
        task: what the channels are of, -1 and 1 after a tanh, else 0 and 1; None for one channel of probabilities.
        stated: what the file says, as those of 0.1.0 do not; it counts.
    """
    if stated is not None:
        return stated
    if task is None:
        return (PROBABILITY,)
    return tuple(SIGNED if channel.activation == "tanh" else PROBABILITY for channel in task.channels)


def to_attributes(stored: StoredPrediction) -> dict[str, str | list[int]]:
    """Return the attributes that say it, as a file carries them."""
    attributes: dict[str, str | list[int]] = {} if stored.content is None else {"content": stored.content}
    if stored.task is not None:
        attributes["task"] = _as_text(stored.task.model_dump(mode="json", exclude_none=True))
        if stored.content == "label":
            attributes["class_names"] = json.dumps(_class_names(stored.task))
    if stored.placement is not None:
        attributes["first_voxel"] = list(stored.placement.box.start)
        attributes["whole_shape"] = list(stored.placement.whole_shape)
    record: dict[str, Any] = {}
    if stored.scale is not None:
        record["scale"] = stored.scale
    if stored.provenance is not None:
        record["provenance"] = stored.provenance.model_dump(mode="json", exclude_none=True)
    return attributes | ({_RECORD: _as_text({"schema_version": _FORMAT, **record})} if record else {})


def _class_names(task: TaskSpec) -> dict[str, str] | list[str]:
    """Return what the labels are called: by their values, or of a mask in each channel, by channel."""
    names = [channel.name for channel in task.channels]
    return {str(value): name for value, name in enumerate(names)} if task.decode.method == "argmax" else names


def declared_names(attributes: Mapping[str, Any]) -> dict[int, str]:
    """Return what `class_names` calls the values of labels, or the channels, by number; nothing it does not say."""
    said = attributes.get("class_names")
    if isinstance(said, str | bytes):
        try:
            said = json.loads(said)
        except ValueError:
            return {}
    if isinstance(said, Mapping):
        return {int(value): _text(name) for value, name in said.items() if str(value).isdecimal()}
    return {value: _text(name) for value, name in enumerate(as_list(said))}


def _as_text(document: Mapping[str, Any]) -> str:
    """Return one line of JSON, in ASCII."""
    return json.dumps(document, separators=(",", ":"))


def declared_content(attributes: Mapping[str, Any], *, dtype: np.dtype[Any]) -> Content | None:
    """Return the content that a file declares, or None if it is unknown or the data type cannot hold it."""
    text = _text(attributes.get("content"))
    fits = dtype.kind == "f" or dtype == np.uint8 if text == "probability" else dtype.kind != "f"
    return cast("Content", text) if text in get_args(Content) and fits else None


def declared_place(attributes: Mapping[str, Any]) -> tuple[object, object] | None:
    """Return what `read_placement` reads; None unless both attributes are there, since one alone is not ours."""
    first, whole = (attributes.get(name) for name in ("first_voxel", "whole_shape"))
    if first is None or whole is None:
        return None
    return _plain(first), _plain(whole)


def _plain(value: object) -> object:
    """Return what HDF5 gives as NumPy's as a number or a list."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def read_placement(
    place: tuple[object, object] | None, *, shape: tuple[int, int, int], location: str
) -> Placement | None:
    """Return where a volume of `shape` lies in the one that it was predicted from, or None where it does not say.

    Args:
        place: what `declared_place` gives.
        shape: voxels (z, y, x) of the volume.
        location: names it in errors.

    Raises:
        SpecError: what it says is no place.
    """
    if place is None:
        return None
    first, whole = (_whole_numbers(values) for values in place)
    if first is None or whole is None:
        raise SpecError(
            f"{location}: says that it begins at first_voxel {place[0]!r:.80} of whole_shape {place[1]!r:.80}, and "
            "each must be three whole numbers (z, y, x): predict it again, or remove both attributes."
        )
    return Placement(Box.of_shape(shape, start=first), whole)


def _whole_numbers(numbers: object) -> tuple[int, int, int] | None:
    """Return three whole numbers from 0 up, and anything else as None."""
    if not isinstance(numbers, list) or len(numbers) != 3:
        return None
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return None
    z, y, x = numbers
    return z, y, x


def declared_texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that `read_stored` reads, by attribute; what is no text is none, nor a task larger than a spec.

    A task may be another program's own; `zoo_prediction` is ours whatever it holds.
    """
    texts = {name: _text(attributes[name]) for name in _TEXTS if isinstance(attributes.get(name), str | bytes)}
    return {name: text for name, text in texts.items() if text and (name == _RECORD or len(text) <= MAX_BYTES)}


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
