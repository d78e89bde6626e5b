"""Tables: columns in line, nothing lost, and no line wider than the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectomics_zoo.cli import _console, _table
from connectomics_zoo.cli._table import NARROWEST, fact_lines, hidden_columns, table_lines

ROWS = [("mednext-S", "5,552,843", "a"), ("rsunet", "9", "two\nlines")]


def test_columns_are_as_wide_as_their_content_and_numbers_end_in_line():
    head, rule, *body = table_lines(("name", "parameters", "notes"), ROWS, right=("parameters",))
    assert head == ["name       parameters  notes"]
    assert rule == ["────────────────────────────"]
    assert body == [
        ["mednext-S   5,552,843  a"],
        ["rsunet              9  two", "                       lines"],
    ]


def test_a_narrow_terminal_folds_the_widest_column_between_words():
    head, rule, row = table_lines(("name", "summary"), [("mito", "Mitochondria against everything else.")], width=24)
    assert (head, rule) == (["name  summary"], ["─" * 24])
    assert row == ["mito  Mitochondria", "      against everything", "      else."]


def test_names_and_numbers_stay_whole_while_sentences_have_words_to_fold():
    row = ("mito-instance", "presynaptic, postsynaptic, synaptic", "One by one, from their inside.")
    lines = table_lines(("name", "channels", "summary"), [row], width=40)[2]
    assert lines == [
        "mito-instance  presynaptic,   One by",
        "               postsynaptic,  one, from",
        "               synaptic       their",
        "                              inside.",
    ]


def test_what_is_longer_than_a_line_is_broken_behind_a_mark_and_nothing_of_it_is_lost():
    path = "weights.fib25-affinities.metrics.val/adapted_rand_error"
    lines = table_lines(("field", "value"), [(path, "0.5")], width=30)[2]
    assert lines == ["weights.fib25-           0.5", "affinities.metrics.val/", "adapted_rand_error"]


def test_columns_are_left_out_in_order_until_words_stay_whole():
    headers, rows = ("name", "task", "model"), [("n" * 20, "t" * 20, "m" * 20)]
    hidden = [
        hidden_columns(headers, rows, gap=2, width=width, hide_first=("model", "task")) for width in (None, 64, 63, 41)
    ]
    assert hidden == [(), (), ("model",), ("model", "task")]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda columns: st.lists(
            st.lists(st.text(alphabet="abc ", max_size=40), min_size=columns, max_size=columns), min_size=1, max_size=4
        )
    ),
    st.integers(60, 100),
)
def test_no_line_is_wider_than_the_terminal_and_no_letter_is_lost(rows, width):
    headers = [f"h{index}" for index in range(len(rows[0]))]
    head, rule, *body = table_lines(headers, rows, width=width)
    assert len(headers) * (NARROWEST + 2) <= width
    assert max(len(line) for lines in (head, rule, *body) for line in lines) <= width
    letters = "".join(line for row in rows for cell in row for line in cell)
    shown = "".join(line for lines in body for line in lines)
    assert sorted(shown.replace(" ", "")) == sorted(letters.replace(" ", ""))


def test_facts_have_their_names_in_front_and_fold_like_tables():
    facts = [("paper", "A title of several words"), ("url", "x")]
    assert fact_lines(facts) == ["paper  A title of several words", "url    x"]
    assert fact_lines(facts, width=20) == ["paper  A title of", "       several words", "url    x"]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(_console, "is_terminal", lambda stream=None: True)
    monkeypatch.setattr(_console.click, "echo", lambda text, **_: shown.append(text))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown: list[str] = []
    return shown


def test_a_terminal_gets_a_bold_header_and_coloured_keys(terminal, monkeypatch):
    text = "name: x\ninput:\n  - size: [1]\nnote: 'a: b'\n"
    _table.print_table(("name",), [("x",)])
    _console.print_yaml(text)
    assert terminal[0].startswith("\x1b[1mname\x1b[0m\n")
    assert "\x1b[34msize:\x1b[0m [1]" in terminal[1]
    assert re.sub(r"\x1b\[\d+m", "", terminal[1]) == text
    monkeypatch.setenv("NO_COLOR", "1")
    _console.print_yaml(text)
    assert terminal[2] == text
    monkeypatch.setenv("TERM", "dumb")
    _table.print_table(("name",), [("x",)])
    assert terminal[3].startswith("name\n")


def test_a_narrow_terminal_is_told_of_the_columns_that_it_goes_without(terminal):
    _table.print_table(("name", "summary"), [("n" * 20, "s" * 20)], hide_first=("summary",))
    assert "summary" not in terminal[0]
    assert "This terminal is too narrow\nfor: summary." in terminal[1]


def test_rows_that_failed_are_bold(terminal):
    _table.print_table(("name",), [("a",), ("b",)], bold=[1])
    assert terminal[0].splitlines()[2:] == ["a", "\x1b[1mb\x1b[0m"]


def test_a_path_that_is_longer_than_a_line_stays_whole_in_a_sentence(terminal, capsys):
    path = "/" + "a" * 40
    _console.print_text(f"wrote {path} well")
    _console.note(f"wrote {path} well")
    assert terminal == [f"wrote\n{path}\nwell"]
    assert capsys.readouterr().err == f"zoo: wrote\n{path}\nwell\n"


def test_a_terminal_gets_sentences_wrapped_between_words(terminal):
    _console.print_text("Mitochondria against everything else.")
    _console.print_text("  Mitochondria against everything else.")
    assert terminal == ["Mitochondria against\neverything else.", "  Mitochondria against\n  everything else."]
