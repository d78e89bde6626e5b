"""How far a verb is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

PLAIN_INTERVAL_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


@contextmanager
def show_progress(verb: str, *, unit: str, speed: Callable[[float], str]) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how much is done and the time left; what this yields is told how many are done, and all.

    Args:
        verb: what is being done.
        unit: of what, in the plural.
        speed: returns how many of them a second as it is shown.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(verb, unit=unit, speed=speed)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(verb),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=None, speed="")
        begin = time.monotonic()

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, speed=speed(done / (time.monotonic() - begin)))

        yield show


def _plain_lines(verb: str, *, unit: str, speed: Callable[[float], str]) -> Callable[[int, int], None]:
    begin = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_INTERVAL_SECONDS or done == 0:
            return
        last = now
        left = (now - begin) * (total - done) / done
        click.echo(
            f"{verb}: {100 * done // total} % of {total} {unit}, {speed(done / (now - begin))}, {left:.0f} s left",
            err=True,
        )

    return show
