"""scripts/scale: the tables of docs/scale.md, and what it counts."""

from __future__ import annotations

import importlib
import json
import random
import sys

import pytest
from support.paths import REPOSITORY

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def scaling():
    """The modules of scripts/scaling, by name."""
    folder = str(REPOSITORY / "scripts")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(f"scaling.{name}") for name in ("kills", "overhead", "page", "sizes")}
    finally:
        sys.path.remove(folder)


def test_the_tables_are_those_of_the_numbers(scaling):
    assert scaling["page"].read_known(DOCS)
    assert scaling["page"].is_current(DOCS), "run ./scripts/scale --page"


def test_tables_that_were_edited_are_noticed_and_mended_and_the_rest_stays(scaling, tmp_path):
    page = scaling["page"]
    text = (DOCS / "scale.md").read_text(encoding="utf-8")
    (tmp_path / "scale.md").write_text(
        text.replace("| `zoo predict` |", "| zoo predict |") + "More.\n", encoding="utf-8"
    )
    (tmp_path / "scale.json").write_text((DOCS / "scale.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert not page.is_current(tmp_path)
    page.update(tmp_path, {})
    assert page.is_current(tmp_path)
    assert (tmp_path / "scale.md").read_text(encoding="utf-8") == text + "More.\n"


def test_a_measured_section_replaces_its_own_and_leaves_the_others(scaling, tmp_path):
    page = scaling["page"]
    (tmp_path / "scale.md").write_text("# From a laptop to a cluster\n", encoding="utf-8")
    (tmp_path / "scale.json").write_text((DOCS / "scale.json").read_text(encoding="utf-8"), encoding="utf-8")
    known = page.read_known(tmp_path)
    rows = [{"way": "in one process", "seconds": 0.0123}]
    page.update(tmp_path, {"overhead": {"machine": known["overhead"]["machine"], "blocks": 7, "rows": rows}})
    text = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "Of 7 blocks" in text
    assert "| in one process | 12.3 ms |  |" in text
    assert json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))["sizes"] == known["sizes"]


def test_blocks_that_were_begun_again_are_lost_and_those_that_were_done_forgotten(scaling, tmp_path):
    kills = scaling["kills"]
    journal = tmp_path / "journal.jsonl"
    events = [("begun", 0), ("done", 0), ("begun", 1), ("begun", 1), ("done", 1), ("begun", 0), ("done", 0)]
    lines = [json.dumps({"event": event, "stage": "predict", "block": block}) for event, block in events]
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tally = kills.Tally(["main"], random.Random(0), of_workers=1, of_main=2)
    kills.count_blocks(journal, tally)
    assert (tally.needed, tally.lost, tally.forgotten) == (2, 2, 1)
    assert tally.limit == 1 + 2 * kills.WORKERS
