"""What the sections share: settings, tables, and numbers as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from connectomics_zoo.bench.machine import describe_machine


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure."""

    rounds: int
    """Timed rounds, after one to warm up."""
    threads: int | None
    """Of torch and its peers; None leaves torch's own number."""
    large: bool
    """Also measure what takes many minutes."""
    quick: bool
    """Only see that everything works."""
    data: Path | None
    """Has the folders with the volumes that the shipped weights are scored on; None where they are not at hand."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    """Its heading."""
    measure: Callable[[Settings], dict[str, Any]]
    """Returns `{"machine": …, …}`, which JSON can hold."""
    render: Callable[[dict[str, Any]], str]
    """Returns the Markdown below the heading, from what `measure` returned."""


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Within it torch computes with `count` threads; gives how many these are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def this_machine(*packages: str) -> dict[str, Any]:
    """Return this machine as data, with the versions of `packages`."""
    return dataclasses.asdict(describe_machine(torch.device("cpu"), packages=packages))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a header that ends in ` >` has its column aligned to the right."""
    names = [header.removesuffix(" >") for header in headers]
    rules = ["--:" if header.endswith(" >") else "---" for header in headers]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rules, *rows))


def seconds(value: float) -> str:
    """Return a time, in ms below a second."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.{0 if value >= 0.1 else 1}f} ms"


def megabytes(value: float | None) -> str:
    """Return bytes in units of 10⁶."""
    return "-" if value is None else f"{value / 1e6:.0f} MB"


def times(value: float | None, *, digits: int = 2) -> str:
    """Return a ratio."""
    return "-" if value is None else f"{value:.{digits}f}x"


def aim(value: float | None, *, sign: str = "≥") -> str:
    """Return what a ratio should reach, or nothing where there is no aim."""
    return "" if value is None else f"{sign} {value:g}x"


def shape(values: Sequence[int]) -> str:
    """Return a shape in words."""
    return "×".join(map(str, values))
