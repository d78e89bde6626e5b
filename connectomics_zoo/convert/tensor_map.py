"""A user's map: how the tensors of one file become those of a network, by their names and the order of their axes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator
from torch import Tensor

from connectomics_zoo.errors import WeightsError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.base import Name, Node
from connectomics_zoo.schema.validation import validate

_Key = Annotated[str, StringConstraints(min_length=1, max_length=500)]

_Axis = Annotated[int, Field(ge=0, le=15)]


class Pattern(Node):
    """Names that change by a rule."""

    pattern: _Key
    """A regular expression of Python; each of its matches in a name is replaced."""
    to: Annotated[str, StringConstraints(max_length=500)]
    """What takes its place, with `\\1` for its first group."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return value


class Transposition(Node):
    """Tensors whose axes the file has in another order."""

    keys: _Key
    """Their names, as they are after renaming; `*` stands for anything."""
    axes: Annotated[tuple[_Axis, ...], Field(strict=False, min_length=2)]
    """For each axis of the network's tensor, which one of the file's it is."""


class TensorMap(Node):
    """What is done to the tensors of a file, in the order of these fields."""

    name: Name
    """Name of the map, for reports."""
    drop: Annotated[tuple[_Key, ...], Field(strict=False)] = ()
    """Tensors that are no part of the network; `*` stands for anything."""
    rename: Annotated[dict[_Key, _Key], Field(default_factory=dict)]
    """The network's name by the file's, one tensor each; what is renamed here is not matched by `regex`."""
    regex: Annotated[tuple[Pattern, ...], Field(strict=False)] = ()
    """Rules for all other names, each for what the one before it gave."""
    transpose: Annotated[tuple[Transposition, ...], Field(strict=False)] = ()
    """Other orders of axes."""


@dataclass(frozen=True)
class Mapped:
    """The tensors of a file after a map."""

    tensors: dict[str, Tensor]
    """By the names that the map gives them."""
    dropped: tuple[str, ...]
    """Names in the file of those that the map drops."""
    changed: int
    """How many have another name or order of axes than in the file."""


def read_tensor_map(path: Path) -> TensorMap:
    """Return the map in the YAML file at `path`.

    Raises:
        SpecError: it cannot be read, or is none.
    """
    return validate(TensorMap, read_yaml(path), source=str(path))


def apply_map(tensors: Mapping[str, Tensor], tensor_map: TensorMap, *, source: str) -> Mapped:
    """Return the `tensors` of the file `source` as the map says; a rule that no tensor follows is an error.

    Raises:
        WeightsError: the map does not fit these tensors, or gives two of them one name.
    """
    where = f"the map {tensor_map.name}"
    dropped = _dropped(tensors, tensor_map, where=where, source=source)
    names = {key: key for key in tensors if key not in dropped}
    for old, new in tensor_map.rename.items():
        if old not in names:
            raise WeightsError(f"{where} renames {old!r}, which {source} does not have: {nearest(old, names)}")
        names[old] = new
    for rule in tensor_map.regex:
        _apply_pattern(rule, names, tensor_map, where=where, source=source)
    result: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    for old, new in names.items():
        if new in came_from:
            raise WeightsError(
                f"{where} calls both {came_from[new]!r} and {old!r} {new!r}: give each a name of its own."
            )
        came_from[new] = old
        result[new] = tensors[old]
    turned = _transpose(result, tensor_map, where=where, source=source)
    changed = {new for new, old in came_from.items() if new != old} | turned
    return Mapped(result, dropped, len(changed))


def _dropped(tensors: Mapping[str, Tensor], tensor_map: TensorMap, *, where: str, source: str) -> tuple[str, ...]:
    for pattern in tensor_map.drop:
        if not any(fnmatchcase(key, pattern) for key in tensors):
            raise WeightsError(
                f"{where} drops {pattern!r}, and {source} has no such tensor: {nearest(pattern, tensors)}"
            )
    return tuple(key for key in tensors if any(fnmatchcase(key, pattern) for pattern in tensor_map.drop))


def _apply_pattern(rule: Pattern, names: dict[str, str], tensor_map: TensorMap, *, where: str, source: str) -> None:
    """Replace the pattern in the new names, all but those that `rename` gave."""
    matched = False
    for old, new in names.items():
        if old in tensor_map.rename:
            continue
        try:
            names[old], count = re.subn(rule.pattern, rule.to, new)
        except (re.error, IndexError) as error:
            raise WeightsError(
                f"{where}: {rule.to!r} cannot take the place of {rule.pattern!r} ({error}), correct it."
            ) from None
        matched = matched or count > 0
    if not matched:
        first = next((new for old, new in names.items() if old not in tensor_map.rename), "none")
        raise WeightsError(f"{where}: no name in {source} matches {rule.pattern!r}, they are as {first!r}.")


def _transpose(tensors: dict[str, Tensor], tensor_map: TensorMap, *, where: str, source: str) -> set[str]:
    """Permute the axes of what the map says, and return its names."""
    turned: set[str] = set()
    for rule in tensor_map.transpose:
        keys = [key for key in tensors if fnmatchcase(key, rule.keys)]
        if not keys:
            raise WeightsError(
                f"{where} transposes {rule.keys!r}, and {source} has no such tensor after renaming: "
                f"{nearest(rule.keys, tensors)}"
            )
        for key in keys:
            if sorted(rule.axes) != list(range(tensors[key].ndim)):
                raise WeightsError(
                    f"{where} transposes {key!r} by {list(rule.axes)}, and it has the axes "
                    f"{list(range(tensors[key].ndim))}: name each of them once."
                )
            tensors[key] = Tensor.permute(tensors[key], rule.axes)
        turned.update(keys)
    return turned
