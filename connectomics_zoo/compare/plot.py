"""Draws a comparison: the first score against the parameters with its spread, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from connectomics_zoo.compare.report import CompareReport, Row, called, deviation
from connectomics_zoo.files.atomic import whole_file
from connectomics_zoo.runs.logs import read_series

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
"""The palette of Okabe and Ito (2008), whose colours everybody can tell apart."""

MARKERS = "osD^vP*X"

DOTS_PER_INCH = 150


def draw_comparison(report: CompareReport, path: Path) -> None:
    """Write a PNG; one that is there is replaced.

    Left, the mean of the first score against the parameters, with the standard deviation over the seeds and, as points,
    each of them. Right, the validation score in the course of the runs, or their loss where nothing was validated: the
    mean over the seeds, and the range in which they lie.

    Args:
        report: of which at least one row has scores.
        path: the file.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [row for row in report.rows if row.scores]
    styles = {row.ref: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, row in enumerate(rows)}
    trained = [row for row in rows if row.trained_here]
    figure = Figure(figsize=(10 if trained else 5.5, 4.2), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if trained else 1, squeeze=False)[0]
    name = next(iter(rows[0].scores))
    _draw_scores(panels[0], rows, styles, name=name, label=f"{called(name)}, {report.scored_as}")
    if trained:
        _draw_curves(panels[1], trained, styles, metric=name, minutes="minute" in report.budget)
    figure.suptitle(", ".join(part for part in (report.task, report.budget, _seeds(report)) if part), fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(rows)), frameon=False, fontsize=9)
    with whole_file(path, overwrite=True) as partial:
        figure.savefig(partial, format="png")


def _seeds(report: CompareReport) -> str:
    if not report.budget:
        return ""
    return f"{report.seeds} seeds, mean ± standard deviation" if report.seeds > 1 else "one seed"


def _draw_scores(axes: Any, rows: Sequence[Row], styles: dict[str, tuple[str, str]], *, name: str, label: str) -> None:
    for row in rows:
        colour, marker = styles[row.ref]
        values = row.scores[name]
        axes.errorbar(
            row.parameters,
            np.mean(values),
            yerr=deviation(values) or None,
            color=colour,
            marker=marker,
            capsize=4,
            linestyle="none",
            markerfacecolor=colour if row.seen == "nothing" else "white",
            label=row.ref,
        )
        if len(values) > 1:
            axes.scatter([row.parameters] * len(values), values, color="black", s=9, linewidths=0, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for place in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        place(EngFormatter(sep=""))
    sizes = [row.parameters for row in rows if row.parameters is not None]
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    axes.set(xlabel="parameters", ylabel=label)
    if any(row.seen != "nothing" for row in rows):
        axes.set_title("hollow: weights that have seen these data", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(
    axes: Any, rows: Sequence[Row], styles: dict[str, tuple[str, str]], *, metric: str, minutes: bool
) -> None:
    column = f"val/{metric}"
    if not any(read_series(Path(folder), column) for row in rows for folder in row.folders):
        column = "train/loss"
    for row in rows:
        series = [read_series(Path(folder), column) for folder in row.folders]
        shared = sorted(set.intersection(*(set(dict(points)) for points in series))) if series else []
        if not shared:
            continue
        values = np.array([[dict(points)[step] for step in shared] for points in series])
        at = np.array(shared) + 1.0
        if minutes and row.minutes and row.steps:
            at *= float(np.mean(row.minutes)) / row.steps
        colour, marker = styles[row.ref]
        axes.plot(at, values.mean(axis=0), color=colour, marker=marker if len(at) < 40 else None, markersize=4)
        axes.fill_between(at, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    what = "training loss" if column == "train/loss" else f"{called(metric)}, validation in training"
    if not minutes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="minutes of training" if minutes else "optimiser step", ylabel=what)
    axes.spines[["top", "right"]].set_visible(False)
