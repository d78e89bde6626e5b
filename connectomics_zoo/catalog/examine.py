"""What is wrong with a catalogue of others, as far as reading tells: none of its code runs."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator

from connectomics_zoo import catalog
from connectomics_zoo.catalog import BuilderFile, Catalog
from connectomics_zoo.errors import reason

NEEDED = ("Config", "interface", "build")
"""The names that every builder has."""


def find_problems(home: Catalog) -> list[str]:
    """Return what is wrong with the catalogue `home`, one sentence each: files that are missing, builders that fail.

    A builder is read and not imported: an error that only running it shows is not found here.
    """
    if not (home.folder / "specs").is_dir():
        return [catalog.without_specs(home)]
    problems = []
    if not any(entry.catalog == home for kind in catalog.SPEC_KINDS for entry in catalog.entries(kind)):
        problems.append(
            f"the catalogue {home.name!r} has no specs: the folder 'specs' of {home.owner} holds no YAML file that it "
            "should, as where its package data lacks them: mend or remove it."
        )
    for file in catalog.builder_files(home):
        problems += _clash(file)
        wrong = next(_faults(file), None)
        if wrong is not None:
            problems.append(f"the builder {file.path.stem!r} of {home.owner} {wrong}, mend, update or remove it.")
    return problems


def _clash(file: BuilderFile) -> list[str]:
    """Say whose builder has the same name."""
    others = [
        other
        for home in catalog.catalogs()
        for other in catalog.builder_files(home)
        if other.path.stem == file.path.stem and other.catalog != file.catalog
    ]
    if any(other.catalog.is_builtin for other in others):
        return [catalog.builder_clash(file)]
    if others:
        return [catalog.several_builders(file.path.stem, (file, *others))]
    return []


def _faults(file: BuilderFile) -> Iterator[str]:
    """Yield what would keep the builder from being imported, or from being one."""
    try:
        tree = ast.parse(file.path.read_bytes(), filename=file.path.name)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"cannot be imported ({type(error).__name__}: {reason(error)})"
        return
    for statement in tree.body:
        if isinstance(statement, ast.Raise):
            yield f"cannot be imported (it raises in line {statement.lineno}: {ast.unparse(statement)})"
        for package in _packages(statement):
            if not _is_installed(package):
                yield f"cannot be imported (the package {package!r} is not installed)"
    names = _defined(tree)
    missing = [] if "*" in names else [name for name in NEEDED if name not in names]
    if missing:
        yield f"has no {missing[0]!r}, which a builder needs"


def _packages(statement: ast.stmt) -> list[str]:
    """Return the first part of what a statement at the top imports."""
    if isinstance(statement, ast.Import):
        return [alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
        return [statement.module.partition(".")[0]]
    return []


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # one that is imported already, and does not say from where
        return True


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module binds anywhere, in branches too; `*` where it imports all of another."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names
