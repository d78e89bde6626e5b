"""What the sections share: settings, their form, tables, and numbers as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from connectomics_zoo.bench.machine import describe_machine
from scaling.material import Material


@dataclass(frozen=True)
class Settings:
    """What is measured, and how thoroughly."""

    material: Material
    """The run, images and predictions."""
    scratch: Path
    """A folder for outputs, on a disk that SLURM's jobs see too."""
    multiples: tuple[int, ...] = (1, 8, 64)
    """Sizes of the volumes, by how often they hold the smallest."""
    kills: int = 20
    """SIGKILLs, of a prediction and of a decoding each."""
    blocks: int = 300
    """Blocks that do nothing, to see what a block takes beside its work."""
    seed: int = 0
    """Of the moments at which processes are killed."""
    prediction: str | None = None
    """Affinities of a real network, which `objects` needs."""
    truth: str | None = None
    """The objects that they are of."""


@dataclass(frozen=True)
class Section:
    """A part of the tables."""

    title: str
    """Its heading."""
    measure: Callable[[Settings], dict[str, Any] | None]
    """Returns what JSON can hold; None, where that cannot be measured here, having said why."""
    render: Callable[[dict[str, Any]], str]
    """Returns the Markdown below the heading."""


def this_machine() -> dict[str, Any]:
    """Return this machine as data, with the versions of what has a part in it."""
    packages = ("distributed", "dask-jobqueue", "tensorstore", "bioimage-cpp")
    return dataclasses.asdict(describe_machine(torch.device("cpu"), packages=packages))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a header that ends in ` >` has its column aligned to the right."""
    names = [header.removesuffix(" >") for header in headers]
    rules = ["--:" if header.endswith(" >") else "---" for header in headers]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rules, *rows))


def megabytes(value: int | None) -> str:
    """Return bytes in units of 10⁶."""
    return "" if value is None else f"{value / 1e6:.0f} MB"
