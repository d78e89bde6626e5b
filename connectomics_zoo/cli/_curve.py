"""The scores of a run and their curve, in a line each, from its log."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.runs.folder import CURVE_FILE
from connectomics_zoo.runs.logs import read_scores
from connectomics_zoo.schema.experiment import RunSpec

_BARS = "▁▂▃▄▅▆▇█"

_WIDTH = 40
"""Bars of a curve at most."""


def describe_curve(run: RunSpec, folder: Path) -> dict[str, str]:
    """Return the first, best and last validation score of a run and its curve; nothing where its log has none.

    Args:
        run: the run.
        folder: its folder.
    """
    metric = run.task.metrics[0]
    scores = read_scores(folder, metric)
    if not scores:
        return {}
    best = max(scores, key=lambda item: (item[1], item[0]))  # of equal ones, training keeps the last
    named = (("first", scores[0]), ("best", best), ("last", scores[-1]))
    values = [value for _, value in scores]
    picture = f", {folder / CURVE_FILE}" if (folder / CURVE_FILE).is_file() else ""
    return {
        "scores": f"{metric} " + ", ".join(f"{name} {value:.4f} (step {step})" for name, (step, value) in named),
        "curve": f"{sparkline(values)}  {min(values):.3f} to {max(values):.3f}{picture}",
    }


def sparkline(values: list[float]) -> str:
    """Return values as bars, the lowest as the smallest and the highest as the full one.

    Of more values than a line has room for, each bar is the last of its stretch.
    """
    shown = values[-1 :: -max(1, -(-len(values) // _WIDTH))][::-1]
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[len(_BARS) // 2] * len(shown)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in shown)
