"""`scripts/results`: its tables are made by the code of comparisons, and one section is replaced alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from support.paths import REPOSITORY

from connectomics_zoo.compare.report import CompareReport, Row

PAGE = REPOSITORY / "docs" / "results.md"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    loader = SourceFileLoader("results_script", str(REPOSITORY / "scripts" / "results"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("results_script", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "results_script", module)  # where dataclasses look for it
        loader.exec_module(module)
    return module


@pytest.fixture
def written(script, tmp_path, monkeypatch):
    """The comparison that the page takes over."""
    row = Row(ref="a", trained_here=True, seeds=(0, 1, 2), scores={"dice": (0.5, 0.6, 0.7)}, parameters=1000)
    report = CompareReport(
        folder=Path("comparison"),
        task="mito",
        budget="10 steps",
        seeds=3,
        scored=("v.h5:raw",),
        scored_as="test",
        rows=(row,),
        machine="a computer",
    )
    (tmp_path / "comparison.json").write_text(json.dumps(report.to_dict()))
    monkeypatch.setattr(script, "COMPARISON", tmp_path / "comparison.json")
    monkeypatch.setattr(script, "CORRECTIONS", tmp_path / "none.json")
    return report


def test_the_log_of_the_page_is_what_the_script_writes(script):
    assert script.log() in PAGE.read_text(encoding="utf-8")


def test_the_section_of_the_comparison_is_put_in_and_replaced_and_the_rest_stays(script, written):
    page = "# Results\n\n## Neurons\n\ntext\n\n## The commands\n\nmore\n"
    once = script.with_stored(page)
    assert once.startswith("# Results\n\n## Neurons\n\ntext\n\n## Networks under one budget\n\n")
    assert once.endswith("\n```\n\n## The commands\n\nmore\n")
    assert "| a | 0.6000 ± 0.1000 |" in once
    assert "* Measured on a computer." in once
    assert script.with_stored(once) == once


def test_a_page_without_a_comparison_has_no_section_of_it(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "COMPARISON", tmp_path / "none.json")
    assert script.comparison() == ""


def test_the_page_has_the_stored_numbers_of_corrections_as_the_script_writes_them(script):
    section = script.corrections()
    assert section.count("| corrected, 100 steps |") == 1
    assert section in PAGE.read_text(encoding="utf-8")


def test_the_scores_of_the_page_are_in_tables_as_the_script_makes_them(script):
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("| run |")]
    assert len(starts) >= 4
    for start in starts:
        table = lines[start : lines.index("", start)]
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
        assert script.markdown_table(head, rows, left=("run", "model")) == "\n".join(table)
