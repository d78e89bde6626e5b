"""Finds catalogues, their specs and their builders, without pydantic and without importing a catalogue.

A catalogue is a package with `specs/` and `builders/`, announced by an entry point in the group
`connectomics_zoo.catalogs` whose value is the package's name.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from connectomics_zoo.errors import SpecError, UnknownNameError, nearest

GROUP = "connectomics_zoo.catalogs"

SpecKind = Literal["model", "task", "experiment"]
"""What a file in a catalogue is the spec of; it lies in `specs/models`, `specs/tasks` or `specs/experiments`."""

SPEC_KINDS: tuple[SpecKind, ...] = ("model", "task", "experiment")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalog:
    """An installed catalogue."""

    name: str
    package: str
    folder: Path


@dataclass(frozen=True)
class Entry:
    """One spec file of a catalogue; `version` is None for the current version of a model."""

    catalog: Catalog
    kind: SpecKind
    name: str
    version: str | None
    path: Path

    @property
    def family(self) -> str:
        """The folder that a model's file lies in."""
        return self.path.parent.name


@functools.cache
def catalogs() -> tuple[Catalog, ...]:
    """Return the installed catalogues, the built-in one first; what is broken is left out, with a warning."""
    found: dict[str, Catalog] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        folder = _package_folder(point.value)
        if folder is None:
            # What is left of an uninstalled package must not take the other catalogues with it.
            _log.warning(
                "the catalogue %r is left out: its package %r cannot be found, reinstall or uninstall it.",
                point.name,
                point.value,
            )
            continue
        if not (folder / "specs").is_dir():
            _log.warning(
                "the catalogue %r has no specs: its package %r lacks that folder, reinstall or uninstall it.",
                point.name,
                point.value,
            )
        entry = Catalog(point.name, point.value, folder)
        first, *others = sorted({found.setdefault(point.name, entry), entry}, key=lambda item: _rank(item.package))
        found[point.name] = first
        for other in others:
            _log.warning(
                "two catalogues are called %r, that of the package %r is left out for that of %r: uninstall one.",
                point.name,
                other.package,
                first.package,
            )
    return tuple(sorted(found.values(), key=lambda item: (item.name != "zoo", item.name)))


def _rank(package: str) -> tuple[bool, str]:
    """The order of packages: the built-in one first."""
    return package != "zoo", package


def _package_folder(package: str) -> Path | None:
    """Return where `package` lies, None where there is no such package; nothing is imported."""
    name, *parts = package.split(".")
    try:
        module = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):  # one that is imported already, and does not say from where
        return None
    for part in parts:
        if module is None or module.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        module = PathFinder.find_spec(name, module.submodule_search_locations)
    if module is None or not module.submodule_search_locations:
        return None
    return Path(next(iter(module.submodule_search_locations)))


@functools.cache
def entries(kind: SpecKind) -> tuple[Entry, ...]:
    """Return every spec file of `kind` in every catalogue, sorted by catalogue, family, name and version."""
    result = []
    for catalog in catalogs():
        for path in sorted((catalog.folder / "specs" / f"{kind}s").glob("**/*.yaml")):
            name, _, version = path.stem.partition("@")
            result.append(Entry(catalog, kind, name, version or None, path))
    return tuple(result)


def names_of(*kinds: SpecKind) -> set[str]:
    """Return the names of all specs of these kinds, in every catalogue; no file is read."""
    return {entry.name for kind in kinds for entry in entries(kind)}


def find(kind: SpecKind, name: str, *, version: str | None = None, catalog: str | None = None) -> Entry:
    """Return the one entry called `name` (`catalog` and an older `version` narrow it).

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
        SpecError: several catalogues have it; the message gives the spellings that tell them apart.
    """
    if catalog is not None and catalog not in {item.name for item in catalogs()}:
        known = [item.name for item in catalogs()]
        raise UnknownNameError(f"unknown catalogue {catalog!r}: {nearest(catalog, known)}")
    named = [item for item in entries(kind) if item.name == name and catalog in (None, item.catalog.name)]
    matches = [item for item in named if item.version == version]
    if len(matches) == 1:
        return matches[0]
    if matches:
        spellings = " or ".join(f"{item.catalog.name}:{name}" for item in matches)
        raise SpecError(f"{kind} {name!r} is in several catalogues: write {spellings}.")
    if named:
        versions = [item.version for item in named if item.version]
        raise UnknownNameError(f"{kind} {name!r} has no version {version!r}: {nearest(version or '', versions)}")
    raise UnknownNameError(f"unknown {kind} {name!r}: {nearest(name, names_of(kind))}")


@functools.cache
def builders() -> dict[str, str]:
    """Return the closed index of builders: name to import path, from the catalogues' `builders/*.py`."""
    index: dict[str, str] = {}
    for catalog in catalogs():
        for path in sorted((catalog.folder / "builders").glob("[a-z]*.py")):
            import_path = f"{catalog.package}.builders.{path.stem}"
            if index.setdefault(path.stem, import_path) != import_path:
                _log.warning(
                    "two builders are called %r, %s is left out for %s: uninstall one of the packages.",
                    path.stem,
                    import_path,
                    index[path.stem],
                )
    return index


def builder_import_path(name: str) -> str:
    """Return the import path of the builder called `name`.

    Raises:
        UnknownNameError: no catalogue has it.
    """
    index = builders()
    if name not in index:
        raise UnknownNameError(
            f"unknown builder {name!r}: {nearest(name, index)} If its spec is of another "
            "package, install that package, whose catalogue has the builder."
        )
    return index[name]
