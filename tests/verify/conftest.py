"""The tiny spec, in a file."""

from __future__ import annotations

import pytest
from support.tiny_spec import TINY

from connectomics_zoo.files.yaml import dump_yaml


@pytest.fixture
def tiny(tmp_path):
    """Write the tiny spec, with top-level changes, to a file of the user's."""

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(dump_yaml(TINY | changes))
        return str(path)

    return write
