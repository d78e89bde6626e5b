"""Volumes to look at."""

from __future__ import annotations

import numpy as np
import pytest

from connectomics_zoo.view import view


@pytest.fixture
def shown():
    """Show volumes as `view` does, until the test ends."""
    opened = []

    def show(*volumes, **options):
        opened.append(view(volumes, **options))
        return opened[-1]

    yield show
    for item in opened:
        item.close()


@pytest.fixture
def ramp():
    """Return an array whose voxels all differ, of a shape that no chunk fits."""

    def make(*shape, dtype="uint16"):
        return np.arange(np.prod(shape)).reshape(shape).astype(dtype)

    return make
