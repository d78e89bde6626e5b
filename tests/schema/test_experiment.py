"""Experiments say where their volumes lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectomics_zoo.schema.experiment import DataSpec


@pytest.mark.parametrize(
    ("root", "folder"),
    [(None, None), ("data", Path("data")), ("~/data", Path.home() / "data"), ("/data", Path("/data"))],
)
def test_the_folder_of_the_volumes_is_the_root_with_the_home_of_the_user(root, folder):
    assert DataSpec(root=root).folder == folder
