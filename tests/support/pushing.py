"""What the tests of pushing say of the data, and to whom nothing is told."""

from __future__ import annotations

LICENSE = "CC-BY-NC-SA-3.0"
CREDIT = "Doe and Roe: a tiny volume"


def quiet(message):
    """Notify nobody."""
