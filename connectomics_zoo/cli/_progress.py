"""How far a verb is: one bar in the last line of a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from connectomics_zoo.cli._console import columns_of, is_terminal
from connectomics_zoo.schema.progress import Progress

FRAME_SECONDS = 0.25
"""Between two pictures of the bar, however often or seldom something is reported."""

LONGEST_BAR = 40

SHORTEST_BAR = 10

SHORTEST_LABEL = 12
"""Characters of a label that is cut, which ends in …"""


@contextmanager
def show_progress(verb: str, *, speed: Callable[[float], str] | None = None) -> Iterator[Callable[[Progress], None]]:
    """Show on stderr how far `verb` is; what this yields is told.

    The bar goes at the end: what stays in a terminal is what the verb says.

    Args:
        verb: what is being done.
        speed: returns what is done in a second as it is shown; without, it is not.
    """
    job = Job(verb, speed=speed)
    if not is_terminal(sys.stderr):
        yield _plain_lines(job)
        return
    terminal = sys.stderr
    bar = _Bar(terminal, job)
    sys.stderr = bar
    bar.start()
    try:
        yield bar.report
    finally:
        bar.stop()
        sys.stderr = terminal


def plain_interval(elapsed: float) -> float:
    """Return the seconds between two lines where there is no terminal: fewer lines the longer it takes."""
    return min(max(10.0, elapsed / 20), 600.0)


def _plain_lines(job: Job) -> Callable[[Progress], None]:
    printed: float | None = None
    begin = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal printed
        job.report(progress)
        now = time.monotonic()
        due = now - (begin if printed is None else printed) >= plain_interval(now - begin)
        is_last = printed is not None and progress.done == progress.total
        if job.has_begun and (due or is_last):
            printed = now
            print(job.describe(), file=sys.stderr, flush=True)

    return report


class Job:
    """What a verb has reported, and how long it takes.

    Args:
        verb: what is being done.
        speed: returns what is done in a second as it is shown.
    """

    def __init__(self, verb: str, *, speed: Callable[[float], str] | None = None) -> None:
        self.verb = verb
        self.speed = speed
        self.started = time.monotonic()
        self.progress: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Take up a report."""
        self.last = time.monotonic()
        if self.progress is None:
            self.done_before = progress.done
        if progress.done == self.done_before:
            self.begin = self.last  # what is loaded and warmed up before says nothing about the speed
        self.progress = progress

    @property
    def has_begun(self) -> bool:
        """Whether something is done, so that the speed is known."""
        return self.progress is not None and self.progress.done > self.done_before

    def describe(self) -> str:
        """Return everything in a sentence."""
        assert self.progress is not None
        parts = [f"{_count(self.progress)} {self.progress.unit}", self.progress.label, *self._numbers()]
        parts += [f"{self._elapsed()} so far", self._left()]
        return f"{self.verb}: {', '.join(part for part in parts if part)}"

    def line(self, width: int, *, plain: bool = False) -> str:
        """Return a bar and, as far as there is room in `width` characters, what else there is to say.

        Args:
            width: characters.
            plain: draw in ASCII.
        """
        if self.progress is None:
            return f"{self.verb}  {self._elapsed()}"[:width]
        length = min(LONGEST_BAR, max(SHORTEST_BAR, width // 5))
        # Texts in the order in which they stand, and in which order they get room.
        parts = [(0, self.verb), (3, _bar(self.progress, length, plain=plain)), (1, _count(self.progress))]
        parts += [(5 + index, number) for index, number in enumerate(self._numbers())]
        parts += [(99, self._elapsed()), (2, self._left()), (4, self.progress.label)]
        chosen = {}
        room = width
        for index, (rank, text) in sorted(enumerate(parts), key=lambda part: part[1][0]):
            if rank == 4 and len(text) > room > SHORTEST_LABEL:
                text = f"{text[: room - 1]}…"
            if text and len(text) <= room:
                chosen[index] = text
                room -= len(text) + 2
        return "  ".join(text for _, text in sorted(chosen.items()))

    def _numbers(self) -> list[str]:
        assert self.progress is not None
        speed = [self.speed(self._rate())] if self.speed is not None and self.has_begun else []
        return speed + [f"{name} {value:.3f}" for name, value in self.progress.numbers.items()]

    def _elapsed(self) -> str:
        return _duration(time.monotonic() - self.started)

    def _left(self) -> str:
        """How long it will take, as soon as something is done."""
        assert self.progress is not None
        if not self.has_begun:
            return ""
        left = (self.progress.total - self.progress.done) / self._rate() - (time.monotonic() - self.last)
        return f"{_duration(max(0.0, left))} left"

    def _rate(self) -> float:
        """What is done in a second."""
        assert self.progress is not None
        return (self.progress.done - self.done_before) / max(self.last - self.begin, 1e-9)


class _Bar(io.TextIOBase):
    """Stands in for stderr while a job is shown: what others write goes above the bar.

    Args:
        terminal: the real stderr.
        job: what is shown.
    """

    def __init__(self, terminal: TextIO, job: Job) -> None:
        self.terminal = terminal
        self.job = job
        self.drawn = 0
        """Characters of the bar that the terminal's last line shows."""
        self.is_free = True
        """Whether the last line is the bar's: others have ended theirs."""
        self.process = os.getpid()
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.clock = threading.Thread(target=self._run, daemon=True)

    def report(self, progress: Progress) -> None:
        """Take up a report."""
        with self.lock:
            self.job.report(progress)

    def start(self) -> None:
        """Draw the bar from soon on; a job that takes no longer has none."""
        self.clock.start()

    def stop(self) -> None:
        """Remove the bar."""
        self.stopped.set()
        self.clock.join()
        with self.lock:
            self._erase()
            self.terminal.flush()

    def write(self, text: str) -> int:
        """Write above the bar; a line that has not ended (the bar of a download) has the last line for itself."""
        if os.getpid() != self.process:
            return self.terminal.write(text)  # a loader's worker: it has no bar, and a lock that may never open
        with self.lock:
            self._erase()
            self.terminal.write(text)
            self.is_free = text.endswith("\n") if text else self.is_free
            self._draw()
        return len(text)

    def flush(self) -> None:
        """Flush the terminal."""
        self.terminal.flush()

    def fileno(self) -> int:
        """Return the terminal's descriptor."""
        return self.terminal.fileno()

    def isatty(self) -> bool:
        """It stands in for a terminal."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's."""
        return self.terminal.encoding

    def _run(self) -> None:
        while not self.stopped.wait(FRAME_SECONDS):
            with self.lock:
                self._draw()

    def _draw(self) -> None:
        if not self.is_free or self.stopped.is_set():
            return
        # The last column stays empty: a terminal whose line is full may go on in the next one.
        width = columns_of(self.terminal) - 1
        line = self.job.line(width, plain="utf" not in self.encoding.lower())
        if self.drawn > width:
            self._erase()
        self.terminal.write("\r" + line.ljust(self.drawn))
        self.terminal.flush()
        self.drawn = len(line)

    def _erase(self) -> None:
        columns = columns_of(self.terminal)
        if self.drawn >= columns:  # the terminal has become narrower, and what was one line is several
            self.terminal.write(f"\x1b[{(self.drawn - 1) // columns}A\r\x1b[J")
        elif self.drawn:
            self.terminal.write("\r" + " " * self.drawn + "\r")
        self.drawn = 0


def _bar(progress: Progress, length: int, *, plain: bool) -> str:
    done, rest = ("#", "-") if plain else ("━", "─")
    filled = length * progress.done // max(progress.total, 1)
    return done * filled + rest * (length - filled)


def _count(progress: Progress) -> str:
    if progress.total < 1_000_000:
        return f"{progress.done}/{progress.total}"
    return f"{progress.done / 1e6:.1f}/{progress.total / 1e6:.1f} M"


def _duration(seconds: float) -> str:
    """`1:02`, or `1:02:03` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
