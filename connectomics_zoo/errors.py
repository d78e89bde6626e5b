"""Typed errors: one sentence each, saying what was wrong, the value, what is allowed and what to do next."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

LONGEST = 1200
"""Characters of a message; what is longer cites something that nobody would read."""

UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters, line ends of every kind, what turns the direction of a text, and what no encoding takes."""


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with its control characters as `\\x1b` and the like, but for those to `keep`.

    A terminal obeys them, wherever the text comes from: a file, a spec, the Hub.
    """
    return UNPRINTABLE.sub(
        lambda match: match[0] if match[0] in keep else match[0].encode("unicode_escape").decode(), text
    )


class ZooError(ValueError):
    """Base of every error a user can cause; the command line prints it and exits with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the message in one line of bounded length, whatever the input that it cites."""
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}"


class UnknownNameError(ZooError, LookupError):
    """A name (model, task, experiment, field, …) that does not exist; the nearest ones are suggested."""


class SpecError(ZooError):
    """A spec file that cannot be read or does not follow its schema."""


class InputSizeError(ZooError):
    """An input tensor whose spatial size or channels the network does not accept."""


class LimitError(ZooError):
    """A request that exceeds a stated limit (parameters, file size), refused before memory is taken."""


class WeightsError(ZooError):
    """Weights that are missing, unsafe, damaged or do not fit the network."""


class HubError(ZooError):
    """Something that the Hugging Face Hub does not give, take or allow, or a file from it that is not what it was."""


class VolumeError(ZooError):
    """An image or label volume that cannot be read or does not fit its use."""


class OutputError(ZooError):
    """A place that cannot be written, or where something would be overwritten."""


class MissingPackageError(ZooError, ImportError):
    """An optional package that was asked for is not installed."""


class CheckFailedError(ZooError):
    """A check ran and failed (exit code 1, as opposed to wrong usage)."""

    exit_code = 1


class WorkerRefusedError(CheckFailedError):
    """A process cannot take part in a job: it has another program, other weights, or does not see the job's folder."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'a' or 'b'?"`-style help for a misspelt `name`, or what is known.

    Matching ignores case, `-` and `_`, so `MedNeXt_s` finds `mednext-S`.
    """
    by_key: dict[str, str] = {}
    for candidate in known:
        by_key.setdefault(_key(candidate), candidate)
    matches = difflib.get_close_matches(_key(name), by_key, n=3, cutoff=0.5)
    if matches:
        return "did you mean " + " or ".join(repr(by_key[match]) for match in matches) + "?"
    names = sorted(by_key.values())
    if len(names) > 12:
        return f"known are {', '.join(names[:12])} and {len(names) - 12} more."
    return f"known are {', '.join(names)}." if names else "none is known."


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def reason(error: BaseException) -> str:
    """Return in a few words what `error` says."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
