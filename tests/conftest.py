"""Fixtures that several test files share."""

from __future__ import annotations

import sys

import pytest
from second_catalog import second_catalog

from connectomics_zoo.cli.main import main


@pytest.fixture
def run_zoo(monkeypatch, capsys):
    """Run `zoo` with arguments as the shell would, and return exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def add_spec(tmp_path):
    """Install the catalogue `other` and give the function that adds a spec file to it."""
    with second_catalog(tmp_path / "other_zoo") as add:
        yield add
