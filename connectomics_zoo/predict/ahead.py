"""Work that goes on beside the network: what comes next is read, and what is finished is written, in a thread each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_LOOK = 0.1
"""Seconds after which a thread that waits looks whether it is still wanted."""


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield `items`, of which a thread makes the next one meanwhile; close it to end the thread.

    What making one raises is raised where it would have been yielded.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    unwanted = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not unwanted.is_set():
            try:
                made.put((kind, value), timeout=_LOOK)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=make, name="reader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
            del value  # not kept while the next one is waited for
    finally:
        unwanted.set()
        thread.join()


class Behind(Generic[T]):
    """Calls `write` on what it is given in a thread, one after the other; at most one waits.

    What a call raises is raised by the next `put`, or at the end of the block.
    """

    def __init__(self, write: Callable[[T], None]) -> None:
        self._write = write
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._last: Future[None] | None = None

    def put(self, item: T) -> None:
        """Have `item` written."""
        self._wait()
        self._last = self._threads.submit(self._write, item)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Behind[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self._threads.shutdown()
