"""The one switch between a network's fast and its plain implementation, for exports, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_asked = 0
"""Callers that want the plain implementation now."""


def enabled() -> bool:
    """Whether networks may use their fast implementation where it applies."""
    return _asked == 0


@contextmanager
def plain_only() -> Iterator[None]:
    """Within it, in every thread, each network runs its plain implementation: the one that the fast one equals."""
    global _asked
    with _lock:
        _asked += 1
    try:
        yield
    finally:
        with _lock:
            _asked -= 1
