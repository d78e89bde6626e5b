"""What the table of a comparison says: spreads, what they do not support, and numbers for spreadsheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from connectomics_zoo.compare.plot import draw_comparison
from connectomics_zoo.compare.report import CompareReport, Row
from connectomics_zoo.compare.tables import csv_text, markdown, markdown_table


def make_report(*rows, **fields):
    given = {
        "folder": Path("c"),
        "task": "mito",
        "budget": "10 steps",
        "seeds": 3,
        "scored": ("v.h5:raw",),
        "scored_as": "test",
        "machine": "a computer",
    }
    return CompareReport(rows=rows, **{**given, **fields})


def make_row(ref, *scores, **fields):
    given = {"trained_here": True, "scores": {"dice": scores}, "seeds": tuple(range(len(scores))), "parameters": 1000}
    return Row(ref=ref, **{**given, **fields})


A = make_row("a", 0.5, 0.6, 0.7)
B = make_row("b", 0.55, 0.65, 0.72)
C = make_row("c", 0.90, 0.91, 0.92)


def test_only_differences_below_the_larger_of_two_spreads_are_called_so():
    lines = [line for line in make_report(A, B, C).notes() if "differ" in line]
    first, second = np.array(A.scores["dice"]), np.array(B.scores["dice"])
    difference, spread = abs(first.mean() - second.mean()), max(first.std(ddof=1), second.std(ddof=1))
    assert lines == [f"a and b differ by less than their spread (Dice: {difference:.4f} of {spread:.4f})."]


def test_weights_without_seeds_are_held_to_the_spread_of_the_others():
    near = make_row("near", 0.65, trained_here=False, seeds=())
    far = make_row("far", 0.75, trained_here=False, seeds=())
    lines = [line for line in make_report(A, near, far).notes() if "differ" in line]
    assert len(lines) == 1
    assert lines[0].startswith("a and near")


def test_a_single_seed_is_said_to_have_no_spread():
    rows = [make_row("a", 0.5), make_row("b", 0.5)]
    notes = make_report(*rows, seeds=1).notes()
    assert not [line for line in notes if "differ" in line]
    assert "One seed says nothing of the spread" in notes[1]
    assert make_report(*rows, seeds=1).table().rows[0][1] == "0.5000"


def test_steps_on_other_patches_are_pointed_out():
    rows = [
        make_row("a", 0.5, patch_size=(8, 8, 8), batch_size=2),
        make_row("b", 0.5, patch_size=(8, 8, 8), batch_size=1),
    ]
    notes = "\n".join(make_report(*rows).notes())
    assert "A step is not the same for all" in notes
    assert "(a: 2 of 8 x 8 x 8; b: 1 of 8 x 8 x 8)" in notes
    assert "A step is not" not in "\n".join(make_report(rows[0], rows[0]).notes())


def test_a_failed_reference_says_why_first_and_one_that_failed_later_keeps_its_scores():
    rows = [A, make_row("x", scores={}, error="it does not fit."), make_row("y", 0.5, error="the second seed failed.")]
    report = make_report(*rows)
    assert report.notes()[:2] == ["x: it does not fit.", "y: the second seed failed."]
    assert [row[1] for row in report.table().rows] == ["0.6000 ± 0.1000", "failed", "0.5000"]


def test_markdown_escapes_what_would_end_a_cell():
    assert markdown_table(("a", "b"), [("x|y", "1")], left=("a",)) == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"
    assert markdown(make_report(A)).splitlines()[-1] == "* Measured on a computer."


def test_csv_has_plain_numbers():
    row = make_row("a,b", 0.5, 0.7, minutes=(1.0, 2.0), steps=10, voxels_per_second=1e6, chosen={"dice": (0.4, 0.6)})
    head, line = csv.reader(io.StringIO(csv_text(make_report(row))))
    numbers = dict(zip(head, line, strict=True))
    assert numbers["reference"] == "a,b"
    assert float(numbers["dice_test"]) == pytest.approx(0.6)
    assert float(numbers["dice_sd"]) == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert float(numbers["dice_validation_chosen_on"]) == pytest.approx(0.5)
    assert (float(numbers["minutes"]), numbers["training_memory_bytes"]) == (1.5, "")


def test_the_plot_has_the_colours_of_all_that_were_scored(tmp_path):
    draw_comparison(make_report(A, C, make_row("x", scores={}, error="no.")), tmp_path / "p.png")
    pixels = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0)}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= colours
    assert (0x00, 0x9E, 0x73) not in colours
