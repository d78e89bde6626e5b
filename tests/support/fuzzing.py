"""Bad input for tests, and a call that may neither hang, grow, nor fail with anything but our own error."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from connectomics_zoo.errors import ZooError

SECONDS = 120
"""A call that takes longer hangs, on the slowest of machines: every one of them is a matter of milliseconds."""

MEGABYTES = 200
"""A call may not need more memory than this."""

LONGEST = 1500
"""Characters of an error: one sentence, with at most five findings of a schema."""


class Hang(BaseException):
    """A call did not come back; not an Exception, which the code under test might catch."""


def refusal(call: Callable[[], object]) -> ZooError | None:
    """Return the error of ours with which `call` refuses its input, None where it takes it; anything else is raised."""
    try:
        with little_memory(), _time_limit():
            call()
        return None
    except ZooError as error:
        text = str(error)
        assert text, "an error without a sentence"
        assert len(text.splitlines()) == 1, text
        assert len(text) <= LONGEST, text
        return error


@contextmanager
def little_memory() -> Iterator[None]:
    """Assert that what is done needs less than `MEGABYTES` of memory."""
    _reset_peak()
    before = _peak_megabytes()
    try:
        yield
    finally:
        growth = _peak_megabytes() - before
        assert growth < MEGABYTES, f"{growth:.0f} MB"


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"no answer after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> None:
    """Let the process's peak memory begin anew (Linux; elsewhere it is not measured)."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")


def _peak_megabytes() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, 2**100, 10**30, -(2**63), 10**9, 65537]),
    st.floats(allow_nan=False, allow_infinity=False),
)

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "..",
            "../../etc/passwd",
            "/etc/passwd",
            "C:\\Windows\\x",
            "os.system",
            "builtins:eval",
            "!!python/object:os.system",
            "hf://org/name@main",
            "a" * 5000,
            "\x00",
            "\ud83d".encode("utf-8", "replace").decode(),
            "true",
            "1e999",
            "nan",
        ]
    ),
)

VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
"""Anything that JSON and YAML can say."""


def places(document: Any) -> list[tuple[Any, ...]]:
    """Return the path of every value in `document` but the whole of it."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path for key, value in items for path in ((key,), *((key, *rest) for rest in places(value)))]


def changed(document: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of `document` in which `change(parent, key)` was done to the value at `place`."""
    result = copy.deepcopy(document)
    parent = result
    for key in place[:-1]:
        parent = parent[key]
    change(parent, place[-1])
    return result


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three values replaced, taken away or added."""
    result = document
    for _ in range(draw(st.integers(1, 3))):
        known = places(result)
        if not known:
            return draw(VALUES)
        place = draw(st.sampled_from(known))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if kind == "replace":
            value = draw(VALUES)
            result = changed(result, place, lambda parent, key, value=value: parent.__setitem__(key, value))
        elif kind == "remove":
            result = changed(result, place, lambda parent, key: parent.pop(key))
        else:
            key, value = draw(TEXTS), draw(VALUES)
            result = changed(
                result,
                place,
                lambda parent, _, key=key, value=value: (
                    parent.update({key: value}) if isinstance(parent, dict) else parent.append(value)
                ),
            )
    return result


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with one to four of them changed, or a part cut out, doubled or put in."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(result) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "double", "insert", "end"]))
        if kind == "flip" and result:
            result[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del result[at : at + draw(st.integers(1, 64))]
        elif kind == "double":
            result[at:at] = result[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            result[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            del result[at:]
    return bytes(result)


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header, a document or its very bytes, and these tensors; `length` is what it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return ((len(text) if length is None else length) % 2**64).to_bytes(8, "little") + text + data
