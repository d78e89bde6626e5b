"""How far a verb is: one bar in the last line of a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress import Progress as Tasks
from rich.progress import Task
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from connectomics_zoo.cli._console import is_terminal, print_beside
from connectomics_zoo.errors import printable
from connectomics_zoo.schema.progress import Progress, count, duration

LONGEST_BAR = 40

SHORTEST_BAR = 10

SHORTEST_LABEL = 12
"""Characters of a label that is cut, which ends in …"""

LABEL = 4
"""The rank of what is cut rather than left out."""


@contextmanager
def show_progress(verb: str, *, speed: Callable[[float], str] | None = None) -> Iterator[Callable[[Progress], None]]:
    """Show on stderr how far `verb` is, as the function that this yields is told it.

    The bar goes at the end: what stays in a terminal is what the verb says.

    Args:
        verb: what is being done.
        speed: returns what is done in a second as it is shown; without, it is not.
    """
    task, report = follow(verb, speed=speed)
    console = Console(file=sys.stderr, force_terminal=is_terminal(sys.stderr), highlight=False)
    if not console.is_interactive:
        yield _plain_lines(task, report)
        return
    above = _AboveBar(console, sys.stderr)
    bar = Bar(task, above)
    console.push_render_hook(bar)
    # rich's own stand-ins send stdout to stderr's terminal, print every state of a download's bar in a line of its own,
    # and lock up in a loader's worker that is forked while the bar is drawn.
    live = Live(bar, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with live, redirect_stderr(cast("TextIO", above)):
        yield report


def follow(verb: str, *, speed: Callable[[float], str] | None = None) -> tuple[Task, Callable[[Progress], None]]:
    """Return what is known of a job, and what is told of it.

    Args:
        verb: what is being done.
        speed: returns what is done in a second as it is shown.
    """
    tasks = Tasks(speed_estimate_period=math.inf, get_time=time.monotonic)
    number = tasks.add_task(verb, total=None, speed=speed)  # rich would forget the speed whenever a total changes
    (task,) = tasks.tasks

    def report(progress: Progress) -> None:
        begins = "progress" not in task.fields
        progress = replace(progress, label=printable(progress.label))
        tasks.update(number, completed=progress.done, progress=progress, told=task.elapsed)
        if begins:
            tasks.advance(number, 0)  # the speed counts from here: what is loaded before says nothing about it

    return task, report


def plain_interval(elapsed: float) -> float:
    """Return the seconds between two lines where there is no terminal: fewer lines the longer it takes."""
    return min(max(10.0, elapsed / 20), 600.0)


def _plain_lines(task: Task, report: Callable[[Progress], None]) -> Callable[[Progress], None]:
    printed: float | None = None
    begin = time.monotonic()

    def report_and_print(progress: Progress) -> None:
        nonlocal printed
        report(progress)
        now = time.monotonic()
        due = now - (begin if printed is None else printed) >= plain_interval(now - begin)
        is_last = printed is not None and progress.done == progress.total
        if task.speed and (due or is_last):
            printed = now
            print_beside(describe(task))

    return report_and_print


def describe(task: Task) -> str:
    """Return everything that is known in a sentence."""
    progress = task.fields["progress"]
    parts = [f"{count(progress)} {progress.unit}", progress.label, *_numbers(task)]
    parts += [f"{duration(task.elapsed)} so far", _left(task)]
    return f"{task.description}: {', '.join(part for part in parts if part)}"


class Bar(RenderHook):
    """A line with a bar and, as far as there is room, what else there is to say.

    Args:
        task: what is shown.
        above: what others write, which has the line as long as theirs has not ended.
    """

    def __init__(self, task: Task, above: _AboveBar) -> None:
        self.task = task
        self.above = above
        self.drawn = 0
        """Characters that the terminal's last line shows."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the line."""
        # The last column stays empty: a terminal whose line is full may go on in the next one.
        room = width = options.max_width - 1
        chosen = {}
        for index, (rank, piece) in sorted(enumerate(self._pieces(width)), key=lambda item: item[1][0]):
            if isinstance(piece, Text) and rank == LABEL:
                piece.truncate(max(room, SHORTEST_LABEL), overflow="ellipsis")
            size = console.measure(piece).maximum
            if 0 < size <= room:
                chosen[index] = piece
                room -= size + 2
        line = Table.grid(padding=(0, 2))
        line.add_row(*(piece for _, piece in sorted(chosen.items())))
        self.drawn = max(0, width - room - 2)
        yield line

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Erase the line from a terminal that has become narrower, which has made several of it."""
        rows = max(0, self.drawn - 1) // self.above.console.width
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * rows
        return [Control(*up), *renderables]

    def _pieces(self, width: int) -> list[tuple[int, Text | ProgressBar]]:
        """Return what there is to say, in the order in which it stands, each with its rank: who gets room first."""
        task, progress = self.task, self.task.fields.get("progress")
        if self.above.unfinished.strip():
            return [(LABEL, Text(self.above.unfinished))]
        if progress is None:
            return [(0, Text(task.description)), (1, Text(duration(task.elapsed)))]
        bar = ProgressBar(progress.total, progress.done, width=min(LONGEST_BAR, max(SHORTEST_BAR, width // 5)))
        return [
            (0, Text(task.description)),
            (3, bar),
            (1, Text(count(progress))),
            *((5 + index, Text(number)) for index, number in enumerate(_numbers(task))),
            (99, Text(duration(task.elapsed))),
            (2, Text(_left(task))),
            (LABEL, Text(progress.label)),
        ]


class _AboveBar:
    """Stands in for stderr while there is a bar: lines go above it, one that has not ended takes its place.

    Args:
        console: shows the bar.
        terminal: the real stderr, which is what this is in everything but writing.
    """

    def __init__(self, console: Console, terminal: TextIO) -> None:
        self.console = console
        self.terminal = terminal
        self.unfinished = ""
        self.process = os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)

    def write(self, text: str) -> int:
        """Write whole lines, and keep the rest: the bar of a download, which begins its line again and again."""
        begins = not self.unfinished.strip()
        *lines, rest = (line[line.rstrip("\r").rfind("\r") + 1 :] for line in f"{self.unfinished}{text}".split("\n"))
        self.unfinished = rest
        if os.getpid() != self.process:  # a loader's worker has no bar, and locks that may never open
            self.terminal.write(f"\x1b[2K\x1b[G{text}" if begins else text)
        elif lines:
            self.console.out("\n".join(lines))
        return len(text)


def _numbers(task: Task) -> list[str]:
    rate, speed = task.speed, task.fields["speed"]
    numbers = [f"{name} {value:.3f}" for name, value in task.fields["progress"].numbers.items()]
    return [speed(rate), *numbers] if rate and speed is not None else numbers


def _left(task: Task) -> str:
    """How long it will take, as soon as something is done."""
    rate, progress = task.speed, task.fields["progress"]
    if not rate:
        return ""
    left = (progress.total - progress.done) / rate - ((task.elapsed or 0) - task.fields["told"])
    return f"{duration(max(0.0, left))} left"
