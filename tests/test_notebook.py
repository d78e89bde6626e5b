"""The executed notebook in docs/: its cells run, in order, and what it shows is what they show now."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re

import nbformat
import pytest
from support.paths import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "notebook.ipynb"

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")


def run_cell(source, names):
    """Run a cell, and return what it prints, and what its last line shows by media type."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue(), {} if value is None else shown(value)


def shown(value):
    """Return what IPython would ask a value for."""
    for name in ("_repr_mimebundle_", "_repr_html_"):
        if hasattr(value, name):
            found = getattr(value, name)()
            return found if isinstance(found, dict) else {"text/html": found}
    return {"text/plain": repr(value)}


def stored_output(cell):
    """Return what a cell printed and showed when the notebook was executed; notes on stderr do not count."""
    printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    results = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return printed, dict(results[0]) if results else {}


def words_and_numbers(text):
    """Return a text without its numbers, blanks and lines, and its numbers."""
    text = text.replace(f"{REPOSITORY}/", "")
    return "".join(NUMBER.sub("#", text).replace("-", "").split()), [float(number) for number in NUMBER.findall(text)]


def test_the_notebook_shows_what_its_cells_show(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    monkeypatch.chdir(tmp_path)
    names = {}
    pictures = 0
    for cell in cells:
        printed, values = run_cell(cell.source, names)
        stored_text, stored = stored_output(cell)
        assert printed == stored_text
        if "image/png" in stored:
            pictures += 1
            assert names["Image"].open("mito.png").size[0] > 1000
            continue
        assert ("text/html" in values) == ("text/html" in stored)
        for kind, text in values.items():
            words, numbers = words_and_numbers(text)
            stored_words, stored_numbers = words_and_numbers(stored[kind])
            assert words == stored_words, f"run ./scripts/notebook: {cell.source}"
            # Other processors round otherwise, and a voxel near the threshold falls on its other side.
            assert numbers == pytest.approx(stored_numbers, rel=0.02, abs=0.01)
    assert pictures == 1


def test_the_notebook_says_nothing_of_the_machine_that_executed_it():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|tmp|root|Users|work)/", text)
    assert set(json.loads(text)["metadata"]) == {"kernelspec"}
