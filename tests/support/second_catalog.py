"""A catalogue beside the built-in one, for the tests of names, versions and broken files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectomics_zoo import catalog
from connectomics_zoo.files.yaml import dump_yaml, read_yaml

Add = Callable[..., Path]


@contextmanager
def second_catalog(folder: Path) -> Iterator[Add]:
    """Install the catalogue `other`, in `folder`, and give a function that adds a spec file to it."""
    builtin = catalog.catalogs()
    other = catalog.Catalog("other", "other_zoo", folder)
    patch = pytest.MonkeyPatch()
    patch.setattr(catalog, "catalogs", lambda: (*builtin, other))
    catalog.entries.cache_clear()

    def add(stem: str, changes: dict[str, Any] | None = None, *, kind: str = "model", text: str | None = None) -> Path:
        """Add a copy of mednext-S (or the task mito) as `stem`.yaml, with top-level `changes`, or the `text` given."""
        catalog.entries.cache_clear()
        path = folder / "specs" / f"{kind}s" / ("mednext" if kind == "model" else "") / f"{stem}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            original = catalog.find(kind, "mednext-S" if kind == "model" else "mito", catalog="zoo").path
            text = dump_yaml(read_yaml(original) | {"name": stem.partition("@")[0]} | (changes or {}))
        path.write_text(text)
        catalog.entries.cache_clear()
        return path

    try:
        yield add
    finally:
        patch.undo()
        catalog.entries.cache_clear()
