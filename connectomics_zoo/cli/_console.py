"""What the verbs print, written here alone: sentences, notes, JSON and YAML, without control characters of others."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import IO, Any

import click

from connectomics_zoo.errors import UNPRINTABLE, printable


def is_terminal(stream: IO[str] | None = None) -> bool:
    """Whether `stream` is a terminal; stdout, if none is given."""
    return (sys.stdout if stream is None else stream).isatty()


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, None where it goes elsewhere and nothing is wrapped."""
    return columns_of(sys.stdout) if is_terminal() else None


def columns_of(terminal: IO[str]) -> int:
    """Return the columns of a terminal: what the user has set, or what it says itself."""
    fallback = shutil.get_terminal_size().columns
    if os.environ.get("COLUMNS", "").isdigit():
        return fallback
    try:
        return os.get_terminal_size(terminal.fileno()).columns or fallback
    except OSError:
        return fallback


def note(message: str) -> None:
    """Print a note on stderr, wrapped between words on a terminal."""
    message = printable(f"zoo: {message}", keep="\n")
    print(_wrap(message, columns_of(sys.stderr)) if is_terminal(sys.stderr) else message, file=sys.stderr, flush=True)


def print_beside(line: str) -> None:
    """Print a line on stderr, as it is."""
    print(printable(line), file=sys.stderr, flush=True)


def print_text(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """Print a sentence on stdout, wrapped between words on a terminal."""
    width = terminal_width()
    text = printable(text, keep="\n")
    click.echo(styled(text if width is None else _wrap(text, width), bold=bold, dim=dim))


def print_line(text: str = "") -> None:
    """Print a line on stdout, which is not wrapped."""
    click.echo(printable(text, keep="\n\t"))


def print_styled(lines: Iterable[str]) -> None:
    """Print lines on stdout that `styled` has made bold or dim, of texts in which every character is `printable`."""
    click.echo("\n".join(lines))


def print_json(data: Any) -> None:
    """Print `data` as indented JSON on stdout; JSON has no infinite numbers, and null stands in their place."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    # JSON itself escapes only those below the blank; what is left stands in its texts alone, but for the line ends.
    click.echo(UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def print_yaml(text: str) -> None:
    """Print YAML on stdout, with coloured keys on a terminal and exactly as it is elsewhere."""
    if _is_styled() and not os.environ.get("NO_COLOR"):
        text = re.sub(
            r"^([ -]*)([\w.-]+:)(?= |$)", lambda key: key[1] + click.style(key[2], fg="blue"), text, flags=re.M
        )
    click.echo(text, nl=False)


def styled(text: str, *, bold: bool = False, dim: bool = False) -> str:
    """Return `text` in bold or dim letters where stdout is a terminal that has them."""
    return click.style(text, bold=bold or None, dim=dim or None) if (bold or dim) and _is_styled() else text


def _is_styled() -> bool:
    return is_terminal() and os.environ.get("TERM") != "dumb"


def _wrap(text: str, width: int) -> str:
    """Break the lines of `text` between words, below their first one; a path that is longer than a line stays whole."""
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=" " * (len(line) - len(line.lstrip())),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
