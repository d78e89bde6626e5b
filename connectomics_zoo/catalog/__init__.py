"""Finds catalogues, their specs and their builders, without pydantic and without importing a catalogue.

A catalogue is a folder with `specs/` and `builders/`: that of a package, announced by an entry point in the group
`connectomics_zoo.catalogs` whose value is the package's name, or one that the environment variable `ZOO_PATH` names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

from connectomics_zoo.catalog.homes import FOLDER_PACKAGE, GROUP, PATH_VARIABLE, Catalog, LeftOut, find_homes
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest

__all__ = ["FOLDER_PACKAGE", "GROUP", "PATH_VARIABLE", "Catalog", "LeftOut", "find_homes"]

SpecKind = Literal["model", "task", "experiment"]
"""What a file in a catalogue is the spec of; it lies in `specs/models`, `specs/tasks` or `specs/experiments`."""

SPEC_KINDS: tuple[SpecKind, ...] = ("model", "task", "experiment")

_log = logging.getLogger(__name__)


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
    homes = find_homes()
    for item in homes.left_out:
        _log.warning("%s", item.problem)
    for home in homes.catalogs:
        if not (home.folder / "specs").is_dir():
            _log.warning("%s", without_specs(home))
    return homes.catalogs


def without_specs(catalog: Catalog) -> str:
    """Say of a catalogue that it has no folder of specs, and what to do."""
    way_out = "make it" if catalog.package.startswith(FOLDER_PACKAGE) else "reinstall or uninstall it"
    return f"the catalogue {catalog.name!r} has no specs: {catalog.owner} lacks that folder, {way_out}."


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


def catalog_named(name: str) -> Catalog:
    """Return the catalogue called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    known = {item.name: item for item in catalogs()}
    if name not in known:
        raise UnknownNameError(f"unknown catalogue {name!r}: {nearest(name, known)}")
    return known[name]


def find(kind: SpecKind, name: str, *, version: str | None = None, catalog: str | None = None) -> Entry:
    """Return the one entry called `name` (`catalog` and an older `version` narrow it).

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
        SpecError: several catalogues have it; the message gives the spellings that tell them apart.
    """
    if catalog is not None:
        catalog_named(catalog)
    named = [item for item in entries(kind) if item.name == name and catalog in (None, item.catalog.name)]
    matches = [item for item in named if item.version == version]
    if len(matches) == 1:
        return matches[0]
    if matches:
        spellings = " or ".join(f"{item.catalog.name}:{name}" for item in matches)
        owners = " and ".join(item.catalog.owner for item in matches)
        raise SpecError(f"{kind} {name!r} is in several catalogues: write {spellings} (of {owners}).")
    if named:
        versions = [item.version for item in named if item.version]
        raise UnknownNameError(f"{kind} {name!r} has no version {version!r}: {nearest(version or '', versions)}")
    raise UnknownNameError(f"unknown {kind} {name!r}: {nearest(name, names_of(kind))}")


class BuilderFile(NamedTuple):
    """A builder, by the file that holds it."""

    catalog: Catalog
    path: Path

    @property
    def import_path(self) -> str:
        """What it is imported as."""
        return f"{self.catalog.package}.builders.{self.path.stem}"


def builder_files(catalog: Catalog) -> list[BuilderFile]:
    """Return the builders in the folder of a catalogue."""
    return [BuilderFile(catalog, path) for path in sorted((catalog.folder / "builders").glob("[a-z]*.py"))]


@functools.cache
def _builder_index() -> dict[str, tuple[BuilderFile, ...]]:
    """Return the closed index of builders: name to the files that are called so.

    The built-in catalogue keeps its names. Of others that share one, none is taken: whose code runs would be chance.
    """
    index: dict[str, tuple[BuilderFile, ...]] = {}
    for catalog in catalogs():
        for file in builder_files(catalog):
            found = index.setdefault(file.path.stem, (file,))
            if file in found:
                continue
            if found[0].catalog.is_builtin:
                _log.warning("%s", builder_clash(file))
            else:
                index[file.path.stem] = (*found, file)
    return index


def builder_clash(file: BuilderFile) -> str:
    """Say of a builder that its name is taken by the built-in catalogue."""
    return (
        f"the builder {file.path.stem!r} of {file.catalog.owner} is left out: the built-in catalogue has one of that "
        "name, rename it."
    )


def builders() -> dict[str, str]:
    """Return the closed index of builders: name to import path, from the catalogues' `builders/*.py`."""
    return {name: files[0].import_path for name, files in _builder_index().items() if len(files) == 1}


def find_builder(name: str) -> BuilderFile:
    """Return the builder called `name`.

    Raises:
        UnknownNameError: no catalogue has it.
        SpecError: several have it.
    """
    index = _builder_index()
    if name not in index:
        raise UnknownNameError(
            f"unknown builder {name!r}: {nearest(name, index)} If its spec is of another "
            "package, install that package, whose catalogue has the builder."
        )
    if len(index[name]) > 1:
        raise SpecError(several_builders(name, index[name]))
    return index[name][0]


def several_builders(name: str, files: Iterable[BuilderFile]) -> str:
    """Say of builders of one name whose they are, and what to do."""
    owners = " and ".join(sorted(file.catalog.owner for file in files))
    return f"several builders are called {name!r}, of {owners}, and none is run: remove or rename one."


def builder_import_path(name: str) -> str:
    """Return the import path of the builder called `name`; raises as `find_builder`."""
    return find_builder(name).import_path


def import_builder(name: str) -> ModuleType:
    """Return the module of the builder called `name`, whose code runs when it is imported first.

    Raises:
        UnknownNameError: no catalogue has it.
        SpecError: several have it.
    """
    file = find_builder(name)
    if file.catalog.package.startswith(FOLDER_PACKAGE):
        _import_folder(file.catalog)
    return importlib.import_module(file.import_path)


def _import_folder(catalog: Catalog) -> None:
    """Let what lies in the folder of a catalogue be imported below the name of its package, and by nothing else."""
    if catalog.package in sys.modules:
        return
    first = catalog.folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        catalog.package, first if first.is_file() else None, submodule_search_locations=[str(catalog.folder)]
    )
    if spec is None or spec.loader is None:
        spec = importlib.machinery.ModuleSpec(catalog.package, None, is_package=True)
        spec.submodule_search_locations = [str(catalog.folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[catalog.package] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[catalog.package]
            raise


def forget() -> None:
    """Let the next question for catalogues look for them anew."""
    importlib.invalidate_caches()
    for cached in (find_homes, catalogs, entries, _builder_index):
        cached.cache_clear()
