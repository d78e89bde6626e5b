"""How far a verb is, in a notebook: one bar below the cell; nothing anywhere else."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from connectomics_zoo.errors import printable
from connectomics_zoo.schema.progress import Progress, count, duration

SHORTEST_INTERVAL = 0.2
"""Seconds between two states of the bar, each of which is a message to the browser."""


def notebook_bar(verb: str) -> Callable[[Progress], None] | None:
    """Return what shows in a notebook how far `verb` is, as it is told; None elsewhere.

    It needs no widgets, and IPython only because a notebook has it.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:  # IPython in a terminal has no kernel
        return None
    return _Bar(verb)


class _Bar:
    """A display that is updated in place, made when there is something to show.

    Args:
        verb: what is being done.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.handle: Any = None
        self.first = Progress(0, 0, unit="")
        self.begin = self.shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Show `progress`, unless what is shown is new enough."""
        now = time.monotonic()
        if self.handle is None:
            self.first, self.begin, self.shown = progress, now, now
            self.handle = importlib.import_module("IPython.display").display(
                self._states(progress, now), raw=True, display_id=True
            )
        elif progress.done >= progress.total or now - self.shown >= SHORTEST_INTERVAL:
            self.shown = now
            self.handle.update(self._states(progress, now), raw=True)

    def _states(self, progress: Progress, now: float) -> dict[str, str]:
        """Return the bar as HTML, and in a line for what shows no HTML."""
        elapsed, done = now - self.begin, progress.done - self.first.done
        numbers = [f"{name} {value:.3f}" for name, value in progress.numbers.items()]
        parts = [f"{count(progress)} {progress.unit}", progress.label, *numbers, duration(elapsed)]
        if done > 0 and progress.done < progress.total:
            parts.append(f"{duration(elapsed / done * (progress.total - progress.done))} left")
        text = printable(", ".join(part for part in parts if part))
        bar = f'<progress value="{progress.done}" max="{max(1, progress.total)}"></progress>'
        return {"text/plain": f"{self.verb}: {text}", "text/html": f"{self.verb} {bar} {html.escape(text)}"}
