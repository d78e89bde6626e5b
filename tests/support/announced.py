"""This project's own entry points, as pyproject.toml has them, whatever an older installation says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from support.paths import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_project(folder: Path) -> dict[str, Any]:
    """Return the table `project` of the pyproject.toml in `folder`."""
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def announce(project: dict[str, Any], site: Path) -> None:
    """Write the metadata of an installed distribution into `site`: what `pip install --editable` would leave there."""
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def announce_own(site: Path) -> None:
    """Announce this project in `site`, which comes before its installation."""
    announce(read_project(REPOSITORY), site)
