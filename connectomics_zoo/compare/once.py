"""Says the same warning once: every seed of every reference would repeat what is true of all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Fresh(logging.Filter):
    """Lets a message pass the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self.said
        self.said.add(message)
        return is_new


@contextmanager
def each_once() -> Iterator[None]:
    """Within it, whoever shows what is logged shows no message twice."""
    filters = [(handler, _Fresh()) for handler in logging.getLogger().handlers]
    for handler, fresh in filters:
        handler.addFilter(fresh)
    try:
        yield
    finally:
        for handler, fresh in filters:
            handler.removeFilter(fresh)
