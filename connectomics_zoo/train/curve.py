"""Draws the curve of a run: training loss and validation metric over the steps."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from connectomics_zoo.files.atomic import whole_file

LOG_FILE = "metrics.csv"
"""Name of the CSV log of the last stretch of a run."""

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""


def draw_curve(logs: Path, picture: Path, *, title: str, metric: str) -> None:
    """Write a PNG with the curves of a run.

    Args:
        logs: folder of the run's CSV logs.
        picture: the PNG to write.
        title: name of the run.
        metric: the validation metric to draw.
    """
    losses = read_series(logs, "train/loss")
    scores = read_series(logs, f"val/{metric}")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
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
        best = max(scores, key=lambda item: item[1])
        right.annotate(f"{best[1]:.3f}", best, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    with whole_file(picture, overwrite=True) as partial:
        figure.savefig(partial, format="png", dpi=150)


def keep_log(logs: Path, *, step: int) -> None:
    """Rename the CSV log of a run that is resumed after `step`: Lightning would begin it anew."""
    log = logs / LOG_FILE
    if log.is_file():
        log.replace(log.with_name(f"{log.stem}-until-{step:09d}{log.suffix}"))


def read_series(logs: Path, column: str) -> list[tuple[int, float]]:
    """Return the (step, value) pairs of `column` in the CSV logs of a run, which has one for every resume.

    Of a step that was done twice, since the run was killed after its last checkpoint, the later value counts.
    """
    values: dict[int, float] = {}
    for log in sorted(logs.glob("metrics*.csv")):
        with log.open(newline="", encoding="utf-8") as stream:
            rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(stream) if row.get(column)]
        if rows:
            values = {step: value for step, value in values.items() if step < rows[0][0]} | dict(rows)
    return sorted(values.items())


def _smooth(values: tuple[float, ...]) -> list[float]:
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(SMOOTHING * smoothed[-1] + (1 - SMOOTHING) * value)
    return smoothed
