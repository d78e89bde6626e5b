"""Draws how much faster than plain float32 each variant of each network is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from connectomics_zoo.bench.report import BenchReport, Measurement, ModelBench
from connectomics_zoo.bench.variants import MODES, Variant
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import check_place, whole_file

STYLES = {
    Variant("plain", "float32"): ("#999999", ""),
    Variant("default", "float32"): ("#0072B2", ""),
    Variant("plain", "bfloat16"): ("#999999", "///"),
    Variant("default", "bfloat16"): ("#E69F00", "///"),
}
"""Colour and hatching, from the palette of Okabe and Ito (2008), whose colours everybody can tell apart."""

INCHES_PER_GROUP = 1.6
DOTS_PER_INCH = 150


class _Group(NamedTuple):
    name: str
    bars: tuple[Measurement, ...]
    base: Measurement


def draw_speed_ups(reports: Sequence[BenchReport], path: str | Path) -> None:
    """Write a PNG with a group of bars for each network and mode; whiskers reach from the slowest round to the fastest.

    Args:
        reports: of one machine, which the title names; those of the first one are drawn first.
        path: a file ending in .png; an existing one is replaced, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    target = check_target(path)
    groups = _groups([model for report in reports for model in report.models])
    figure = Figure(
        figsize=(max(5.0, INCHES_PER_GROUP * len(groups) + 1), 4.2), dpi=DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labelled: set[Variant] = set()
    for place, group in enumerate(groups):
        width = 0.8 / len(group.bars)
        for index, bar in enumerate(group.bars):
            x = place - 0.4 + width * (index + 0.5)
            colour, hatch = STYLES[bar.variant]
            fresh = bar.variant not in labelled
            labelled.add(bar.variant)
            label = f"{bar.implementation} {bar.precision}" if fresh else None
            axes.bar(x, bar.speed_up, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5, label=label)
            low, high = group.base.seconds / bar.seconds_longest, group.base.seconds / bar.seconds_shortest
            axes.vlines(x, low, high, color="black", linewidth=1)
            axes.annotate(
                f"{bar.speed_up:.2f}", (x, high), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xticks(range(len(groups)), [group.name for group in groups], fontsize=9)
    axes.set_ylabel("speed-up over plain float32")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    machine = reports[0].machine
    cores = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    axes.set_title(
        f"{machine.accelerator or machine.processor}, {cores}, torch {machine.versions['torch']}", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=2 if len(groups) < 3 else 4, frameon=False, fontsize=9)
    _save(figure, target)


def check_target(path: str | Path) -> Path:
    """Return `path`, where a picture can be written.

    Raises:
        OutputError: it cannot.
    """
    target = Path(path)
    if target.suffix != ".png":
        raise OutputError(f"{target}: a plot is a PNG, give a name that ends in .png.")
    check_place(target, overwrite=True)
    return target


def _groups(models: Sequence[ModelBench]) -> list[_Group]:
    groups = []
    for model in models:
        size = "×".join(map(str, model.input_shape[2:]))
        for mode in MODES:
            bars = tuple(item for item in model.measurements if item.mode == mode)
            if bars:
                groups.append(_Group(f"{model.model}\n{mode}\n{size}", bars, bars[0]))
    return groups


def _save(figure: Figure, target: Path) -> None:
    with whole_file(target, overwrite=True) as partial:
        figure.savefig(partial, format="png")
