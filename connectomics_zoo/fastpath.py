"""The one switch between a network's fast and its plain implementation, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_plain_only = False


def enabled() -> bool:
    """Whether networks may use their fast implementation where it applies."""
    return not _plain_only


@contextmanager
def plain_only() -> Iterator[None]:
    """Within it, in every thread, each network runs its plain implementation: the one that the fast one equals."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before
