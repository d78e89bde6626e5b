"""`zoo show`: what is declared, on a screen, and all of it on request."""

from __future__ import annotations

import pytest
from support.tiny_training import make_run

from connectomics_zoo import catalog
from connectomics_zoo.cli._table import fact_lines
from connectomics_zoo.specs.lookup import get_spec

SCREEN = 40
"""Lines of a terminal."""

NAMES = sorted(catalog.names_of("model", "task", "experiment"))


@pytest.fixture(params=[80, 120], ids="{} columns".format)
def columns(request, monkeypatch):
    """Let stdout be a terminal of so many columns, without colours."""
    monkeypatch.setattr("connectomics_zoo.cli._console.is_terminal", lambda stream=None: True)
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "dumb")
    return request.param


def test_everything_that_is_shipped_fits_a_screen(columns, run_zoo):
    weights = [f"{name}.{tag}" for name in sorted(catalog.names_of("model")) for tag in get_spec(name).weights]
    assert weights
    for name in [*NAMES, *weights]:
        code, out, _ = run_zoo("show", name)
        lines = out.splitlines()
        assert (code, len(lines) <= SCREEN, max(map(len, lines)) <= columns) == (0, True, True), out


def test_a_run_of_many_volumes_with_long_paths_fits_a_screen(columns, run_zoo, tmp_path):
    path = "/data/of/the/laboratory/dataset-{}/block_{:04d}.h5:volumes/{}"
    pairs = [{"image": path.format("a", n, "raw"), "label": path.format("a", n, "labels")} for n in range(30)]
    run = make_run({"train": pairs[:25], "validation": pairs[25:]})
    (tmp_path / "spec.yaml").write_text(run.model_dump_json())
    code, out, _ = run_zoo("show", f"{tmp_path}/")
    lines = out.splitlines()
    assert (code, len(lines) <= SCREEN, max(map(len, lines)) <= columns) == (0, True, True), out
    assert "and 24 more" in lines
    assert [line.split()[0] for line in lines if "raw" in line or "data" in line].count("validation") == 3
    _, out, _ = run_zoo("show", f"{tmp_path}/", "--all")
    table = out.partition("schema_version")[0].split()
    assert (table.count("train"), table.count("validation")) == (25, 6)  # once as a fact


def test_the_rest_is_behind_all(run_zoo):
    short, everything = (run_zoo("show", "mednext-S", *option)[1] for option in ((), ("--all",)))
    spec = run_zoo("show", "mednext-S", "--yaml")[1]
    assert everything.endswith(spec)
    assert "fingerprint" not in short
    assert short.splitlines()[-1] == "Everything, with the complete spec: --all."
    entry = get_spec("mednext-S").weights["vnc-mito"]
    assert entry.dataset in everything.partition("schema_version")[0]
    assert entry.sha256 in run_zoo("show", "mednext-S.vnc-mito", "--all")[1].partition("schema_version")[0]


def test_a_text_of_too_many_lines_ends_behind_a_word():
    facts = [("a", "one two three four"), ("b", "five")]
    assert fact_lines(facts, width=12, most=1) == ["a  one two …", "b  five"]
    assert fact_lines(facts, width=11, most=2) == ["a  one two", "   three …", "b  five"]
    assert fact_lines([("a", "x" * 20)], width=12, most=1) == ["a  xxxxxxx …"]
