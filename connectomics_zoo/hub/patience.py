"""How long a busy Hub is waited for: once as long as it says, some times after a fault, and never longer in all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

MOST_SECONDS = 30
"""What one load waits for the Hub, all its waits together; for longer, the user decides."""

_WAITS = (1, 2, 4)
"""Seconds before a question is asked again, where the Hub does not say how many."""

_TOO_MANY = 429

_PASSING = (408, _TOO_MANY, 500, 502, 503, 504)
"""What the Hub answers when it would have another answer a little later."""

_Answer = TypeVar("_Answer")

_asks_itself: ContextVar[bool] = ContextVar("_asks_itself", default=False)


class BusyError(Exception):
    """The Hub was asked as often and as long as it is sensible; the last answer is the cause.

    Args:
        asked: how many times.
        waited: seconds in between, all together.
    """

    def __init__(self, *, asked: int, waited: int) -> None:
        super().__init__(f"asked {asked} times in {waited} s")
        self.asked = asked
        self.waited = waited


class Patience:
    """The waits of one load, whatever it asks."""

    def __init__(self) -> None:
        self.waited = 0

    def ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Return the answer to `question`, which is asked again after a while where the Hub is busy or has a fault.

        Raises:
            BusyError: it is so for longer.
        """
        has_heeded = False
        for asked, usual in enumerate((*_WAITS, None), start=1):
            try:
                with _without_waits_of_the_client():
                    return question()
            except Exception as error:
                response = _passing(error)
                if response is None:
                    raise
                told = retry_after(response)
                wait = usual if told is None or usual is None else max(told, usual)
                heeded = told is not None and response.status_code == _TOO_MANY
                if wait is None or self.waited + wait > MOST_SECONDS or (heeded and has_heeded):
                    raise BusyError(asked=asked, waited=self.waited) from _with_response(error)
            has_heeded |= heeded
            self.waited += wait
            time.sleep(wait)
        raise AssertionError("the last question has been answered or raised")


def retry_after(response: Any) -> int | None:
    """Return the seconds after which the Hub says to ask again, None where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # it is, lazily

    limits = parse_ratelimit_headers(response.headers)
    if response.status_code == _TOO_MANY and limits is not None and limits.remaining == 0:
        return int(limits.reset_in_seconds)
    told = response.headers.get("Retry-After", "").strip()
    return int(told) if told.isascii() and told.isdigit() else None  # a date, which it may be, is as good as nothing


def _with_response(error: BaseException) -> BaseException:
    """Return the answer of the Hub; the client reports one as a file that is not in the cache, and it as the cause."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _passing(error: BaseException) -> Any:
    """Return the response that says that the Hub is busy or has a fault; None if it is something else."""
    from huggingface_hub.errors import HfHubHTTPError

    error = _with_response(error)
    if not isinstance(error, HfHubHTTPError) or getattr(error, "response", None) is None:
        return None
    return error.response if error.response.status_code in _PASSING else None


@contextmanager
def _without_waits_of_the_client() -> Iterator[None]:
    """Let the client raise at once; it would ask up to six times and wait as long as it is told before each."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    if _raise_if_passing not in hooks:
        hooks.append(_raise_if_passing)
    token = _asks_itself.set(True)
    try:
        yield
    finally:
        _asks_itself.reset(token)


def _raise_if_passing(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # it is, lazily

    if _asks_itself.get() and response.status_code in _PASSING:
        hf_raise_for_status(response)
