"""Key maps: what is known about the checkpoints of other projects, one file of data for each format."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from connectomics_zoo.errors import UnknownNameError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.base import Name, Node, Sentence
from connectomics_zoo.schema.validation import validate

_FOLDER = Path(__file__).parent / "maps"

_Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Keys = Annotated[tuple[_Key, ...], Field(strict=False)]
_Global = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\.(?:[A-Za-z_]\w*|\*)$")]
_Globals = Annotated[tuple[_Global, ...], Field(strict=False)]


class Mark(Node):
    """What tells a format from others; all of it must be there."""

    keys: _Keys
    """Keys at the top of the checkpoint."""
    pickled: _Global | None = None
    """A global that the pickle names; `package.*` is any in that package."""


class Place(Node):
    """Where tensors lie in a checkpoint."""

    at: _Keys
    """The keys on the way, from the top; one may end in `*`; without any, the top itself."""
    averaged: bool = False
    """Whether these are averages over the training (EMA) rather than its last state."""
    beside: _Key | None = None
    """A key at the top that must be there too."""


class OtherNetwork(Node):
    """A network that such checkpoints often hold, and that no catalogue can."""

    key: _Key
    """A tensor that it has; `*` stands for anything."""
    network: Sentence
    """What it is, and what to do instead."""


class KeyMap(Node):
    """One format of checkpoints."""

    name: Name
    """Name of the format; also the stem of its file."""
    summary: Sentence
    """Who writes it."""
    code: Sentence
    """The code that writes it, which this map was read from."""
    marks: Annotated[tuple[Mark, ...], Field(strict=False, min_length=1)]
    """How it is recognised: by any of these."""
    tensors: Annotated[tuple[Place, ...], Field(strict=False, min_length=1)]
    """Where its tensors lie, the first choice first."""
    drop: _Keys = ()
    """Keys of tensors that are no part of a network, and may stand where its own do; `*` stands for anything."""
    settled: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Builders whose networks have here what the catalogue says wherever tensors do not tell."""
    architecture: Literal["tensors", "plans"] = "tensors"
    """What tells which network it is where no model is named: its tensors, or nnU-Net's plans where these have it."""
    other_networks: Annotated[tuple[OtherNetwork, ...], Field(strict=False)] = ()
    """Networks that are refused with a word of their own."""
    objects: _Globals = ()
    """Classes and functions that the pickle may name; each becomes an object that holds and does nothing."""
    mappings: _Globals = ()
    """Those among them that hold items, and become a dictionary."""

    def allows(self, name: str) -> bool:
        """Whether a pickle of this format may name the global `name`."""
        return any(is_under(name, pattern) for pattern in (*self.objects, *self.mappings))

    def is_mapping(self, name: str) -> bool:
        """Whether the global `name` becomes a dictionary."""
        return any(is_under(name, pattern) for pattern in self.mappings)

    def recognises(self, checkpoint: Mapping[object, object], pickled: Iterable[str]) -> int:
        """Return how many marks of the best kind fit (more is more certain), -1 where none does."""
        fitting = [
            len(mark.keys) + (mark.pickled is not None)
            for mark in self.marks
            if all(key in checkpoint for key in mark.keys)
            and (mark.pickled is None or any(is_under(name, mark.pickled) for name in pickled))
        ]
        return max(fitting, default=-1)

    def drops(self, key: str) -> bool:
        """Whether the tensor `key`, which the network does not have, is no part of any."""
        return any(fnmatchcase(key, pattern) for pattern in self.drop)


def is_under(name: str, pattern: str) -> bool:
    """Whether the global `name` is `pattern`, or lies in the package of `pattern`, `package.*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith(".*") else name == pattern


@functools.cache
def key_maps() -> Mapping[str, KeyMap]:
    """Return every format by its name."""
    maps = {path.stem: validate(KeyMap, read_yaml(path), source=path.name) for path in sorted(_FOLDER.glob("*.yaml"))}
    assert all(name == item.name for name, item in maps.items())
    return maps


def get_key_map(name: str) -> KeyMap:
    """Return the format called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    maps = key_maps()
    if name not in maps:
        raise UnknownNameError(f"unknown format {name!r}: {nearest(name, maps)}")
    return maps[name]
