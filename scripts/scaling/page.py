"""The tables in docs/scale.md, between two marks, as they follow from docs/scale.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.bench.machine import Machine
from scaling import graph, kills, objects, overhead, petabyte, sizes, slurm
from scaling.common import Section

SECTIONS: dict[str, Section] = {
    "sizes": sizes.SECTION,
    "overhead": overhead.SECTION,
    "kills": kills.SECTION,
    "slurm": slurm.SECTION,
    "objects": objects.SECTION,
    "graph": graph.SECTION,
    "petabyte": petabyte.SECTION,
}
"""In the order in which they are measured and shown."""

BEGIN = "<!-- From here to the next mark written by scripts/scale from scale.json: edit that script. -->"
END = "<!-- Here ends what scripts/scale has written. -->"


def update(folder: Path, found: Mapping[str, dict[str, Any]]) -> None:
    """Put `found` in the place of what was known of these sections, and write the tables anew."""
    known = read_known(folder)
    merged = {name: {**known, **found}[name] for name in SECTIONS if name in known or name in found}
    (folder / "scale.json").write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "scale.md"
    file.write_text(page(file.read_text(encoding="utf-8"), read_known(folder)), encoding="utf-8")


def is_current(folder: Path) -> bool:
    """Whether the tables are those that follow from the numbers."""
    text = (folder / "scale.md").read_text(encoding="utf-8")
    return page(text, read_known(folder)) == text


def read_known(folder: Path) -> dict[str, Any]:
    """Return what was measured."""
    file = folder / "scale.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known


def page(text: str, data: Mapping[str, dict[str, Any]]) -> str:
    """Return the page with other tables between its marks, or behind its end where it has none."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2] or "\n"
    return f"{head.rstrip()}\n\n{BEGIN}\n\n{tables(data)}\n{END}{tail}"


def tables(data: Mapping[str, dict[str, Any]]) -> str:
    """Return a part for each section that was measured, with its machine, load, versions and date."""
    parts = ["## Measured\n"]
    for name, section in SECTIONS.items():
        if name in data:
            machine = Machine(**{**data[name]["machine"], "instructions": tuple(data[name]["machine"]["instructions"])})
            load = "" if machine.load is None else f"; load before the measurement {machine.load:.1f}"
            parts.append(f"### {section.title}\n\n{section.render(data[name])}\n\n{machine.describe()}{load}.\n")
    return "\n".join(parts)
