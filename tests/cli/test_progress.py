"""The progress of a job: a bar in the last line of a terminal, which gives way to other lines, and plain lines."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.control import Control

from connectomics_zoo.cli import _progress
from connectomics_zoo.cli._progress import Bar, describe, follow, plain_interval, show_progress
from connectomics_zoo.schema.progress import Progress

NUMBERS = {"loss": 0.25, "val/dice": 0.5, "val/iou": 0.4}


@pytest.fixture
def clock(monkeypatch):
    """The time, which is what a test says."""
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    return now


def steps(done, **more):
    return Progress(done, 200, unit="steps", **more)


def task_after(clock, *, seconds, done, verb="train", **more):
    """A task that has taken `seconds` for the steps since its 100th."""
    task, report = follow(verb)
    report(steps(100))
    clock[0] += seconds
    report(steps(done, **more))
    return task


def line(task, width, *, encoding="utf-8"):
    """What a terminal without colours shows that has room for `width` characters and the last column."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width + 1, color_system=None)
    with console.capture() as shown:
        console.print(Bar(task, SimpleNamespace(unfinished="", console=console)))
    return shown.get().removesuffix("\n")


def test_the_time_left_follows_from_the_steps_of_this_call(clock):
    task = task_after(clock, seconds=50, done=150)
    assert describe(task) == "train: 150/200 steps, 0:50 so far, 0:50 left"
    clock[0] += 10
    assert describe(task).endswith("1:00 so far, 0:40 left")


def test_what_is_loaded_before_the_first_step_does_not_slow_the_estimate(clock):
    task, report = follow("train")
    clock[0] += 3600
    report(steps(0))
    clock[0] += 1
    report(steps(1))
    assert describe(task) == "train: 1/200 steps, 1:00:01 so far, 3:19 left"


def test_the_estimate_is_of_all_steps_however_seldom_they_are_reported(clock):
    task, report = follow("train")
    for done in range(0, 101, 50):
        report(steps(done))
        clock[0] += 3600
    assert describe(task) == "train: 100/200 steps, 3:00:00 so far, 1:00:00 left"


def test_the_estimate_goes_on_where_there_turns_out_to_be_more_to_do(clock):
    task, report = follow("tune")
    report(Progress(0, 2, unit="settings"))
    clock[0] += 10
    report(Progress(1, 3, unit="settings"))
    assert describe(task) == "tune: 1/3 settings, 0:10 so far, 0:20 left"


def test_nothing_is_estimated_before_something_is_done(clock):
    task, report = follow("verify")
    report(Progress(0, 3, unit="specs", label="zoo:mednext-S"))
    assert describe(task) == "verify: 0/3 specs, zoo:mednext-S, 0:00 so far"


def test_large_numbers_are_counted_in_millions_and_a_verb_shows_its_speed(clock):
    task, report = follow("predict", speed=lambda rate: f"{rate / 1e6:g} Mvoxel/s")
    report(Progress(0, 4_000_000, unit="voxels"))
    clock[0] += 2
    report(Progress(1_000_000, 4_000_000, unit="voxels"))
    assert describe(task) == "predict: 1.0/4.0 M voxels, 0.5 Mvoxel/s, 0:02 so far, 0:06 left"


def test_a_narrow_terminal_goes_without_what_matters_least(clock):
    task = task_after(clock, seconds=50, done=150, numbers=NUMBERS)
    assert [line(task, width) for width in (100, 79, 60, 40, 30, 20)] == [
        "train  ━━━━━━━━━━━━━━━       150/200  loss 0.250  val/dice 0.500  val/iou 0.400  0:50  0:50 left",
        "train  ━━━━━━━━━━━      150/200  loss 0.250  val/dice 0.500  0:50  0:50 left",
        "train  ━━━━━━━━━     150/200  loss 0.250  0:50  0:50 left",
        "train  ━━━━━━━╸    150/200  0:50 left",
        "train  150/200  0:50 left",
        "train  150/200  0:50",
    ]


def test_a_label_that_is_too_long_ends_in_an_ellipsis(clock):
    task = task_after(clock, seconds=50, done=150, label="my-models/" * 6)
    assert line(task, 79).endswith("  150/200  0:50 left  my-models/my-models/my-models/my-m…")
    assert "my-models" not in line(task, 50)


def test_no_line_is_wider_than_the_terminal(clock):
    task = task_after(clock, seconds=5000, done=101, numbers=NUMBERS, label="x" * 50, verb="predict")
    for width in range(1, 200):
        assert len(line(task, width)) <= width
        assert len(line(follow("predict")[0], width)) <= width


def test_a_terminal_without_unicode_gets_a_bar_of_ascii(clock):
    shown = line(task_after(clock, seconds=50, done=150), 50, encoding="ascii")
    assert shown.isascii()
    assert "-------" in shown


# Without a terminal ---------------------------------------------------------------------------------------------------


def test_a_short_job_prints_no_line(capsys):
    with show_progress("train") as progress:
        progress(steps(0))
        progress(steps(200))
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with show_progress("train") as progress:
        for done in range(200):
            progress(steps(done))
            clock[0] += 0.3
        progress(steps(200))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "train: 34/200 steps, 0:10 so far, 0:50 left"
    assert lines[-1] == "train: 200/200 steps, 1:00 so far, 0:00 left"


def test_lines_become_fewer_the_longer_it_takes():
    assert [plain_interval(seconds) for seconds in (0, 200, 2000, 12_000, 1e6)] == [10, 10, 100, 600, 600]


@pytest.mark.parametrize(("name", "value"), [("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1")])
def test_a_log_gets_no_bar_whatever_the_environment_says_about_colours(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    with show_progress("train") as progress:
        progress(steps(0))
    assert capsys.readouterr().err == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(terminal, clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with bar_on(terminal, "train") as progress:
        progress(steps(0))
        clock[0] += 20
        progress(steps(100))
    assert terminal.screen() == ["train: 100/200 steps, 0:20 so far, 0:20", "left", ""]


# In a terminal --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal, and what it shows."""

    encoding = "utf-8"

    def __init__(self, columns):
        super().__init__()
        self.columns = columns
        self.rows, self.row, self.column = [""], 0, 0
        self.gate = threading.Event()
        """Whether other threads may write."""
        self.gate.set()
        self.has_waiting = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        if not self.gate.is_set() and threading.current_thread() is not threading.main_thread():
            self.has_waiting.set()
            self.gate.wait()
        for number, command, character in re.findall(r"\x1b\[([\d;?]*)([A-Za-z])|([^\x1b])", text):
            if command == "A":
                self.row -= int(number)
            elif command == "K":
                self.rows[self.row] = ""
            elif character == "\r" or command == "G":
                self.column = 0
            elif character:
                self._put(character)
        return len(text)

    def _put(self, character):
        if character == "\n" or self.column == self.columns:
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.rows):
                self.rows.append("")
        if character != "\n":
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
            self.column += 1

    def narrow(self, columns):
        """Become narrower, as terminals do that wrap the lines that they show."""
        self.rows = [row[at : at + columns] for row in self.rows for at in range(0, max(len(row), 1), columns)]
        self.columns = columns
        self.row, self.column = len(self.rows) - 1, len(self.rows[-1])

    def screen(self):
        """The lines as far as the cursor, without blanks at their ends."""
        assert not any(self.rows[self.row + 1 :])
        return [row.rstrip() for row in self.rows[: self.row + 1]]


@pytest.fixture
def terminal(monkeypatch, clock):
    """A terminal of 40 columns without colours, where time goes on as a test says."""
    terminal = Terminal(40)
    for name in ("COLUMNS", "LINES", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(os, "get_terminal_size", lambda _=0: os.terminal_size((terminal.columns, 24)))
    return terminal


@contextmanager
def bar_on(terminal, verb):
    """Show the bar of `verb`, and look that stderr is what it was afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        try:
            with show_progress(verb) as progress:
                yield progress
        finally:
            assert sys.stderr is terminal


def draw():
    """Do what happens by itself now and then."""
    sys.stderr.console.print(Control())


def wait_for(condition, *, seconds=30):
    deadline = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.01)


def test_the_bar_stays_in_the_last_line_below_what_others_write(terminal):
    with bar_on(terminal, "train") as progress:
        progress(steps(100))
        draw()
        assert terminal.screen() == ["train  ━━━━━       100/200  0:00"]
        print("zoo: a warning", file=sys.stderr)
        assert terminal.screen() == ["zoo: a warning", "train  ━━━━━       100/200  0:00"]


def test_what_others_write_is_not_changed(terminal):
    with bar_on(terminal, "train"):
        print("[bold] :smile: \x1b[1mten\x1b[0m", "words", file=sys.stderr)
        print("/a/path/that/is/longer/than/a/line/of/the/terminal", file=sys.stderr)
    path = ["/a/path/that/is/longer/than/a/line/of/th", "e/terminal"]
    assert terminal.screen() == ["[bold] :smile: ten words", *path, ""]


def test_what_a_verb_prints_on_stdout_goes_there(terminal, capsys):
    with bar_on(terminal, "train"):
        print("data")
    assert capsys.readouterr().out == "data\n"
    assert terminal.screen() == [""]


def test_nothing_of_the_bar_is_left_at_the_end(terminal):
    with bar_on(terminal, "train") as progress:
        progress(steps(1))
        draw()
        print("a", file=sys.stderr)
    assert terminal.screen() == ["a", ""]


def test_nothing_of_the_bar_is_left_after_an_error(terminal):
    def stop():
        with bar_on(terminal, "train"):
            draw()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert terminal.screen() == [""]


def test_a_line_that_has_not_ended_has_the_last_line_for_itself(terminal):
    with bar_on(terminal, "predict"):
        sys.stderr.write("\rmodel.safetensors:  50%")
        draw()
        assert terminal.screen() == ["model.safetensors:  50%"]
        sys.stderr.write("\rmodel.safetensors: 100%")
        sys.stderr.write("\n")
        assert terminal.screen() == ["model.safetensors: 100%", "predict  0:00"]


def test_the_bar_comes_back_after_a_line_that_was_erased(terminal):
    with bar_on(terminal, "predict"):
        sys.stderr.write("\rmodel.safetensors:  50%")
        sys.stderr.write("\r                       \r")
        draw()
        assert terminal.screen() == ["predict  0:00"]
        print("zoo: a note", file=sys.stderr)
        assert terminal.screen() == ["zoo: a note", "predict  0:00"]


def test_a_terminal_that_becomes_narrower_has_the_wrapped_bar_removed(terminal):
    with bar_on(terminal, "train") as progress:
        print("a", file=sys.stderr)
        progress(steps(0))
        draw()
        terminal.narrow(12)
        assert len(terminal.screen()) > 2
        print("b", file=sys.stderr)
        assert terminal.screen() == ["a", "b", "train  0:00"]


def test_the_clock_goes_on_while_nothing_is_reported(terminal, clock):
    with bar_on(terminal, "train"):
        clock[0] += 5
        wait_for(lambda: terminal.screen() == ["train  0:05"])


def test_a_forked_process_writes_lines_in_place_of_the_bar_while_another_thread_draws(terminal):
    with bar_on(terminal, "train"):
        terminal.gate.clear()
        wait_for(terminal.has_waiting.is_set)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            print("zoo: a warning", file=sys.stderr)
            os._exit(0 if terminal.screen() == ["zoo: a warning", ""] else 1)
        terminal.gate.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
