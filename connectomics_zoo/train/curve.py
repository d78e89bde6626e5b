"""Draws the curve of a run: training loss and validation metric over the steps."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from connectomics_zoo.files.atomic import whole_file
from connectomics_zoo.runs.folder import CURVE_FILE
from connectomics_zoo.runs.logs import read_scores, read_series

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""

MARGIN = 0.05
"""What is shown above and below the scores of a run that started from weights."""

PLACE = {"left": 0.1, "right": 0.9, "top": 0.92, "bottom": 0.2}
"""Where the axes lie, in parts of the figure; below are the legend and the name of the axis."""


def draw_curve(folder: Path, *, title: str, metric: str) -> None:
    """Draw the curves of a run into its folder.

    Args:
        folder: the run folder, which has the logs.
        title: name of the run.
        metric: the validation metric to draw.
    """
    losses = read_series(folder, "train/loss")
    scores = read_scores(folder, metric)
    figure = Figure(figsize=(7, 4))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(**PLACE)  # a layout that is computed takes as long again as the drawing
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="optimiser step", ylabel="training loss (all scales)")
    if losses:
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color="0.8", linewidth=0.8)
        axes.plot(steps, _smooth(values), color="tab:blue", label="training loss")
    if scores:
        right = axes.twinx()
        steps, values = zip(*scores, strict=True)
        right.plot(steps, values, color="tab:orange", marker="o", markersize=3, label=f"validation {metric}")
        right.set(ylabel=f"validation {metric}", ylim=(0, 1))
        if steps[0] == 0:  # before the first step: how far it came is looked at from close
            right.set(ylim=(max(0, min(values) - MARGIN), min(1, max(values) + MARGIN)))
            right.axhline(values[0], color="tab:orange", linewidth=0.8, linestyle=":", label="before the first step")
        best = max(scores, key=lambda item: item[1])
        right.annotate(f"{best[1]:.3f}", best, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="lower center", ncols=3, frameon=False)
    with whole_file(folder / CURVE_FILE, overwrite=True) as partial:
        figure.savefig(partial, format="png", dpi=150)


def _smooth(values: tuple[float, ...]) -> list[float]:
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value)
    return smoothed
