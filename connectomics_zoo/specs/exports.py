"""In which formats models were exported, as recorded beside a catalogue's lock; read without torch.

`specs/exports.json` maps `name@version` to what `zoo record --exports` found by exporting that release, with initial
weights, in every format, and comparing what was written with torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from connectomics_zoo.catalog import Catalog
from connectomics_zoo.errors import SpecError

EXPORTS_FILE = "specs/exports.json"
"""Where a catalogue's exports lie in its folder."""


@dataclass(frozen=True)
class Outcome:
    """How exporting one release in one format went."""

    sizes: str = ""
    """The spatial sizes that it takes, such as `16 + n*16, 32 + n*16, 32 + n*16`; empty where it cannot be exported."""
    every_size: bool = False
    """Whether these are all legal sizes."""
    dynamic: bool = False
    """Whether they are several."""
    any_batch: bool = False
    """Whether it takes batches of any size, else of one."""
    difference: float = 0.0
    """How far it was from torch at most, as a fraction of the largest absolute value."""
    reason: str = ""
    """Why it cannot be exported."""

    def describe(self) -> str:
        """Return it in a few words: for which sizes it is exported, or `no: …`."""
        if self.reason:
            return f"no: {self.reason}"
        if self.every_size:
            sizes = "every size" if self.dynamic else "its one size"
        else:
            sizes = f"sizes {self.sizes}" if self.dynamic else "one size, chosen at export"
        return sizes if self.any_batch else f"{sizes}, one sample at a time"


Exports = dict[str, dict[str, Outcome]]
"""By `name@version`, then by format."""


def exports_path(home: Catalog) -> Path:
    """Return where the exports of `home` lie."""
    return home.folder / EXPORTS_FILE


def read_exports(home: Catalog) -> Exports:
    """Return the exports of `home`, empty where none are recorded.

    Raises:
        SpecError: the file is not what `exports_text` writes.
    """
    path = exports_path(home)
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: {form: Outcome(**outcome) for form, outcome in formats.items()} for name, formats in known.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SpecError(
            f"{path}: no recorded exports ({error}), restore it or write it anew: zoo record --exports."
        ) from None


def exports_text(exports: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Return the text of the file: sorted by name, one line for each release and format, without what is default."""
    blocks = []
    for name in sorted(exports):
        lines = [f"    {json.dumps(form)}: {json.dumps(_said(outcome))}" for form, outcome in exports[name].items()]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n" if blocks else "{}\n"


def _said(outcome: Outcome) -> dict[str, object]:
    return {field: value for field, value in asdict(outcome).items() if value not in ("", 0.0, False)}


class ListedModel(Protocol):
    """What the table needs of a row of the list."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def exports(self) -> dict[str, str]:
        """By format, in which sizes it is exported, or why not."""


def exports_table(models: Iterable[ListedModel], *, formats: Iterable[str]) -> str:
    """Return a table in Markdown: a row for each model that was tried, a column for each format that was.

    Why one cannot be had is left to the list, which has it in whole sentences.
    """
    tried = [model for model in models if model.exports]
    names = [name for name in formats if any(name in model.exports for model in tried)]
    lines = [f"| model | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for model in tried:
        told = [model.exports.get(name, "not tried") for name in names]
        cells = ["no" if text.startswith("no: ") else text for text in told]
        lines.append(f"| `{model.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
