"""What is recorded of exports: read back as it was written, told in a few words, tabulated on the page."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from support.paths import REPOSITORY

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError
from connectomics_zoo.export.formats import names_of
from connectomics_zoo.specs.exports import Outcome, exports_path, exports_table, exports_text, read_exports
from connectomics_zoo.specs.listing import read_rows

OUTCOMES = {
    "every size": Outcome(sizes="8 + n*8", every_size=True, dynamic=True, any_batch=True, difference=1e-6),
    "its one size": Outcome(sizes="64", every_size=True, any_batch=True),
    "sizes 16 + n*8, one sample at a time": Outcome(sizes="16 + n*8", dynamic=True),
    "one size, chosen at export": Outcome(sizes="8", any_batch=True),
    "no: it cannot.": Outcome(reason="it cannot."),
}


def test_exports_are_read_as_they_were_written_and_told_in_a_few_words(tmp_path):
    home = catalog.Catalog("other", "other_zoo", tmp_path)
    assert read_exports(home) == {}
    exports_path(home).parent.mkdir()
    exports_path(home).write_text(exports_text({"net@1.0.0": OUTCOMES}))
    assert read_exports(home) == {"net@1.0.0": OUTCOMES}
    assert {text: outcome.describe() for text, outcome in OUTCOMES.items()} == {text: text for text in OUTCOMES}


def test_the_table_has_a_row_for_each_model_that_was_tried_and_a_column_for_each_format():
    class Row(NamedTuple):
        name: str
        exports: dict

    rows = [Row("one", {"b": "every size", "a": "no: it cannot."}), Row("two", {}), Row("three", {"b": "sizes 8"})]
    assert exports_table(rows, formats=["a", "b", "c"]) == (
        "| model | a | b |\n| --- | --- | --- |\n| `one` | no | every size |\n| `three` | not tried | sizes 8 |\n"
    )


def test_a_damaged_file_of_exports_is_one_sentence(tmp_path):
    home = catalog.Catalog("other", "other_zoo", tmp_path)
    exports_path(home).parent.mkdir()
    exports_path(home).write_text('{"net@1.0.0": {"onnx": {"size": 3}}}')
    with pytest.raises(
        SpecError, match=r"exports\.json: no recorded exports \(.*\), restore it or write it anew: zoo "
    ):
        read_exports(home)


def test_the_page_has_the_table_of_what_is_recorded():
    rows = read_rows().rows
    table = exports_table(rows, formats=names_of("network"))
    assert sum(set(row.exports) >= {"onnx", "torch-export", "torchscript", "openvino"} for row in rows) >= 10
    page = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- exports -->\n(.*?)<!-- /exports -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == table, "run scripts/exports --table"
