"""Tables: columns in line, nothing lost, and no line wider than the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectomics_zoo.cli import _console
from connectomics_zoo.cli._table import NARROWEST, fact_lines, table_lines

ROWS = [("mednext-S", "5,552,843", "a"), ("rsunet", "9", "two\nlines")]


def test_columns_are_as_wide_as_their_content_and_numbers_end_in_line():
    head, body = table_lines(("name", "parameters", "notes"), ROWS, right=("parameters",))
    assert head == ["name       parameters  notes"]
    assert body == [
        "────────────────────────────",
        "mednext-S   5,552,843  a",
        "rsunet              9  two",
        "                       lines",
    ]


def test_a_narrow_terminal_folds_the_widest_column_between_words():
    head, body = table_lines(("name", "summary"), [("mito", "Mitochondria against everything else.")], width=24)
    assert head == ["name  summary"]
    assert body == ["─" * 24, "mito  Mitochondria", "      against everything", "      else."]


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
    head, body = table_lines(headers, rows, width=width)
    assert len(headers) * (NARROWEST + 2) <= width
    assert max(map(len, head + body)) <= width
    letters = "".join(line for row in rows for cell in row for line in cell)
    assert sorted("".join(body[1:]).replace(" ", "")) == sorted(letters.replace(" ", ""))


def test_facts_have_their_names_in_front_and_fold_like_tables():
    facts = [("paper", "A title of several words"), ("url", "x")]
    assert fact_lines(facts) == ["paper  A title of several words", "url    x"]
    assert fact_lines(facts, width=20) == ["paper  A title of", "       several words", "url    x"]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(_console, "is_terminal", lambda: True)
    monkeypatch.setattr(_console.click, "echo", lambda text, **_: shown.append(text))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown: list[str] = []
    return shown


def test_a_terminal_gets_a_bold_header_and_coloured_keys(terminal, monkeypatch):
    text = "name: x\ninput:\n  - size: [1]\nnote: 'a: b'\n"
    _console.print_table(("name",), [("x",)])
    _console.print_yaml(text)
    assert terminal[0].startswith("\x1b[1mname\x1b[0m\n")
    assert "\x1b[34msize:\x1b[0m [1]" in terminal[1]
    assert re.sub(r"\x1b\[\d+m", "", terminal[1]) == text
    monkeypatch.setenv("NO_COLOR", "1")
    _console.print_yaml(text)
    assert terminal[2] == text
    monkeypatch.setenv("TERM", "dumb")
    _console.print_table(("name",), [("x",)])
    assert terminal[3].startswith("name\n")


def test_a_terminal_gets_sentences_wrapped_between_words(terminal):
    _console.print_text("Mitochondria against everything else.")
    assert terminal == ["Mitochondria against\neverything else."]
