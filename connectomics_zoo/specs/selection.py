"""From patterns, references and paths to the spec files that are verified."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.hub import HubReference
from connectomics_zoo.specs.lookup import get_spec, spec_path
from connectomics_zoo.specs.reference import Reference, parse_reference


@dataclass(frozen=True)
class Target:
    """A spec file that is verified."""

    path: Path
    """The file."""
    entry: catalog.Entry | None
    """Its place in a catalogue, None for a file of the user's."""
    reference: Reference | None = None
    """What meant it, unless that was a pattern."""
    tag: str | None = None
    """The weights that were asked for; None for all of them."""

    @property
    def is_run(self) -> bool:
        """Whether it is the resolved spec of a run, as the file says; in a catalogue, none is.

        Raises:
            SpecError: it cannot be read.
        """
        return self.entry is None and read_yaml(self.path).get("kind") == "run"

    @property
    def is_folder(self) -> bool:
        """Whether a folder was given, whose spec it is."""
        return self.reference is not None and self.reference.path is not None and self.reference.path.is_dir()

    @property
    def hub(self) -> HubReference | None:
        """The repository on the Hub that it was fetched from."""
        return None if self.reference is None else self.reference.hub

    @property
    def label(self) -> str:
        """How the file is called in a report."""
        if self.entry is None:
            return str(self.path) if self.hub is None else str(self.hub)
        return f"{self.entry.catalog.name}:{self.path.stem}" + ("" if self.tag is None else f".{self.tag}")


def select_specs(patterns: Sequence[str]) -> list[Target]:
    """Return the model specs that `patterns` mean, each once, in the order of the catalogues; all without patterns.

    A pattern with `*`, `?` or `[`, or the name of a family, is matched against names and families in any case,
    as `zoo list` does, and means all versions, or where it means no model, against the names of weights
    (`mednext-S.*`); anything else is a reference, the path of a YAML file, or a run folder.

    Raises:
        UnknownNameError: a pattern means nothing; the nearest names are in the message.
    """
    entries = catalog.entries("model")
    by_path = {entry.path.resolve(): entry for entry in entries}
    chosen: dict[tuple[Path | HubReference, str | None], Target] = {}
    for pattern in patterns or ["*"]:
        for target in _targets(pattern, entries, by_path):
            chosen.setdefault((target.hub or target.path.resolve(), target.tag), target)
    places = {path: place for place, path in enumerate(by_path)}
    return sorted(chosen.values(), key=lambda target: places.get(target.path.resolve(), len(places)))


def _targets(pattern: str, entries: Sequence[catalog.Entry], by_path: Mapping[Path, catalog.Entry]) -> list[Target]:
    families = {entry.family for entry in entries} - {entry.name for entry in entries}
    is_wildcard = any(character in pattern for character in "*?[") and not Path(pattern).exists()
    if not is_wildcard and pattern not in families:
        reference = parse_reference(pattern)
        path = spec_path(reference)
        return [Target(path, by_path.get(path.resolve()), reference, reference.tag)]
    found = [Target(entry.path, entry) for entry in entries if _matches(pattern, entry)]
    found = found or [
        Target(entry.path, entry, tag=tag)
        for entry in entries
        for tag in _tags(entry)
        if _matches(pattern, entry, suffix=f".{tag}")
    ]
    if not found:
        names = {entry.name for entry in entries}
        names |= {f"{entry.name}.{tag}" for entry in entries for tag in _tags(entry)} if "." in pattern else set()
        raise UnknownNameError(f"no model and no weights match {pattern!r}: {nearest(pattern.strip('*?'), names)}")
    return found


def _tags(entry: catalog.Entry) -> tuple[str, ...]:
    """Return the names of the weights in a spec, none where it cannot be read."""
    try:
        return tuple(get_spec(entry.path).weights)
    except SpecError:
        return ()


def _matches(pattern: str, entry: catalog.Entry, *, suffix: str = "") -> bool:
    texts = [f"{text}{suffix}" for text in (entry.name, entry.path.stem)] + ([] if suffix else [entry.family])
    spellings = [*texts, *(f"{entry.catalog.name}:{text}" for text in texts)]
    return any(fnmatch.fnmatchcase(spelling.casefold(), pattern.casefold()) for spelling in spellings)
