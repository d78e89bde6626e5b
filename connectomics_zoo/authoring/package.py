"""Makes a package with a catalogue of its own: a complete example that is recorded, to be changed into something."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectomics_zoo import catalog
from connectomics_zoo.catalog import PATH_VARIABLE
from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.atomic import check_place, whole_folder
from connectomics_zoo.files.changes import write_changes

EXAMPLE = Path(__file__).with_name("example")
"""The files, each with `.txt` behind its name, so that nothing takes them for code of the engine."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def package_name(name: str) -> str:
    """Return the name of the package of the catalogue `name`, as it is imported."""
    return f"{name}_zoo"


def write_package(name: str, folder: Path) -> None:
    """Write a package with the catalogue `name` to `folder`: network, builder, recorded model, task, tests, CI.

    Raises:
        SpecError: the name is not legal, or taken.
        OutputError: there is something at `folder`, or it cannot be written.
    """
    _check_name(name)
    check_place(folder, overwrite=False)
    with whole_folder(folder) as partial:
        for path in sorted(EXAMPLE.rglob("*.txt")):
            place = partial / _place(path.relative_to(EXAMPLE).as_posix(), name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_renamed(path.read_text(encoding="utf-8"), name), encoding="utf-8")
        _record(partial / package_name(name))
        for cache in list(partial.rglob("__pycache__")):
            shutil.rmtree(cache)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is no legal name for a catalogue with a package, write a small letter and then at most 39 small "
            "letters, digits or _."
        )
    taken = {item.name: item for item in catalog.catalogs()}
    for used in (name, package_name(name)):
        if used in taken:
            raise SpecError(f"there is a catalogue {used!r} already, of {taken[used].owner}: choose another name.")


def _place(path: str, name: str) -> str:
    """Return where a file of the example goes: what is hidden there begins with `dot-` here."""
    shown = f".{path.removeprefix('dot-')}" if path.startswith("dot-") else path
    return _renamed(shown, name).removesuffix(".txt")


def _renamed(text: str, name: str) -> str:
    """Return a text, or path, of the example with its name replaced."""
    words = "".join(part.capitalize() for part in name.split("_"))
    text = text.replace("acme-zoo", f"{name.replace('_', '-')}-zoo")
    return text.replace("AcmeNet", f"{words}Net").replace("acme", name)


def _record(folder: Path) -> None:
    """Measure the models in the folder of a catalogue, and write lock and schemas."""
    from connectomics_zoo.authoring.record import plan  # imports torch, which a refusal must not wait for

    with _on_path(folder):
        recorded = plan([f"{folder.name}:*"], costs=True)
        assert not recorded.refused, recorded.refused
        write_changes(recorded.changes)


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Within it, `folder` is one of those in `ZOO_PATH`; afterwards nothing is left of its code."""
    before = os.environ.get(PATH_VARIABLE)
    os.environ[PATH_VARIABLE] = os.pathsep.join([str(folder), *([before] if before else [])])
    catalog.forget()
    try:
        yield
    finally:
        if before is None:
            del os.environ[PATH_VARIABLE]
        else:
            os.environ[PATH_VARIABLE] = before
        catalog.forget()
        package = f"{catalog.FOLDER_PACKAGE}{folder.name}"
        for module in [item for item in sys.modules if item == package or item.startswith(f"{package}.")]:
            del sys.modules[module]
