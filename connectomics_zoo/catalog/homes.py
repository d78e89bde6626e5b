"""Where catalogues come from: the entry points of packages, and the folders in `ZOO_PATH`; nothing is imported."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

GROUP = "connectomics_zoo.catalogs"

PATH_VARIABLE = "ZOO_PATH"
"""The environment variable with folders that are catalogues, separated as in `PATH`."""

FOLDER_PACKAGE = "zoo_path_"
"""How the name begins under which the Python of such a folder is imported, before that of the catalogue."""

BUILT_IN = "zoo"
"""The package of the built-in catalogue, and its name."""

_NAME = re.compile(r"[A-Za-z][\w-]{0,63}", re.ASCII)
"""A name that can stand before the colon of `catalog:name`."""


@dataclass(frozen=True)
class Catalog:
    """A catalogue: a folder with `specs/` and `builders/`."""

    name: str
    """What stands before the colon of `catalog:name`."""
    package: str
    """What its builders are imported from."""
    folder: Path
    """Where it lies."""
    distribution: str = ""
    """The installed distribution that announces it, with its version (`acme-zoo 1.0`); empty for a folder."""

    @property
    def owner(self) -> str:
        """Whose it is, in a sentence."""
        if self.package.startswith(FOLDER_PACKAGE):
            return f"the folder {str(self.folder)!r} in {PATH_VARIABLE}"
        return f"the package {self.distribution or self.package!r}"

    @property
    def is_builtin(self) -> bool:
        """Whether it is the one that comes with the engine."""
        return self.package == BUILT_IN


class LeftOut(NamedTuple):
    """What announces itself as a catalogue, and is none or not the only one of its name."""

    name: str
    """Its name."""
    owner: str
    """Whose it is, as `Catalog.owner`."""
    problem: str
    """What is wrong, and what to do, in one sentence."""
    place: str = ""
    """Its package, or its folder."""


class Homes(NamedTuple):
    """What was found."""

    catalogs: tuple[Catalog, ...]
    """The catalogues, the built-in one first, then by name."""
    left_out: tuple[LeftOut, ...]
    """What is not among them, and why."""


@functools.cache
def find_homes() -> Homes:
    """Return the catalogues of installed packages and of the folders in `ZOO_PATH`."""
    found: dict[str, Catalog] = {}
    left_out: list[LeftOut] = []
    for candidate in (*_installed(), *_on_path()):
        if isinstance(candidate, LeftOut):
            left_out.append(candidate)
            continue
        first = found.setdefault(candidate.name, candidate)
        if first.folder.resolve() != candidate.folder.resolve():
            problem = (
                f"two catalogues are called {candidate.name!r}, that of {candidate.owner} is left out for that of "
                f"{first.owner}: {_way_out(candidate)}."
            )
            left_out.append(LeftOut(candidate.name, candidate.owner, problem, candidate.package))
    return Homes(tuple(sorted(found.values(), key=lambda item: (not item.is_builtin, item.name))), tuple(left_out))


def _way_out(catalog: Catalog) -> str:
    return "rename the folder" if catalog.package.startswith(FOLDER_PACKAGE) else "uninstall one"


def _installed() -> list[Catalog | LeftOut]:
    """Return what the entry points announce, the built-in catalogue first, then by package."""
    found = [_of_entry_point(point) for point in importlib.metadata.entry_points(group=GROUP)]
    return sorted(found, key=lambda item: (item.name, getattr(item, "package", "") != BUILT_IN, item.owner))


def _of_entry_point(point: importlib.metadata.EntryPoint) -> Catalog | LeftOut:
    distribution = _distribution(point)
    folder = _package_folder(point.value)
    catalog = Catalog(point.name, point.value, folder or Path(), distribution)
    if folder is None:
        # What is left of an uninstalled package must not take the other catalogues with it.
        problem = (
            f"the catalogue {point.name!r} of {catalog.owner} is left out: its package {point.value!r} cannot be "
            "found, reinstall or uninstall it."
        )
        return LeftOut(point.name, catalog.owner, problem, point.value)
    if not _NAME.fullmatch(point.name):
        return LeftOut(point.name, catalog.owner, f"{_illegal(point.name, catalog)}.", point.value)
    return catalog


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    """Return name and version of what announces a catalogue, empty where its metadata lacks them."""
    try:
        return "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    except (KeyError, TypeError, AttributeError):  # what is left of an uninstalled package
        return ""


def _illegal(name: str, catalog: Catalog) -> str:
    return (
        f"the catalogue {name!r} of {catalog.owner} is left out: a catalogue's name is a letter and then at most 63 "
        "letters, digits, _ or -, rename it"
    )


def _on_path() -> Iterator[Catalog | LeftOut]:
    """Yield the catalogue that each folder in `ZOO_PATH` is, in that order."""
    for text in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if not text.strip():
            continue
        folder = Path(text.strip()).expanduser()
        if not _may_read(folder):
            problem = (
                f"{PATH_VARIABLE} names the folder {text.strip()!r}, which does not exist or may not be read: make it "
                "or take it out."
            )
            yield LeftOut(folder.name, f"the folder {text.strip()!r} in {PATH_VARIABLE}", problem, str(folder))
            continue
        folder = folder.resolve()
        catalog = Catalog(folder.name, f"{FOLDER_PACKAGE}{folder.name}", folder)
        if _NAME.fullmatch(folder.name):
            yield catalog
        else:
            yield LeftOut(folder.name, catalog.owner, f"{_illegal(folder.name, catalog)}.", str(folder))


def _may_read(folder: Path) -> bool:
    try:
        return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
    except OSError:  # one of its parents may not be looked into
        return False


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
