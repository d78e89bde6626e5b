"""The progress of a job: a bar in the last line of a terminal, which gives way to other lines, and plain lines."""

from __future__ import annotations

import io
import re
import sys
import time
from contextlib import contextmanager

import pytest

from connectomics_zoo.cli import _progress
from connectomics_zoo.cli._progress import Job, plain_interval, show_progress
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


def job_after(clock, *, seconds, done, verb="train", speed=None, **more):
    """A job that has taken `seconds` for the steps since its 100th."""
    job = Job(verb, speed=speed)
    job.report(steps(100))
    clock[0] += seconds
    job.report(steps(done, **more))
    return job


def test_the_time_left_follows_from_the_steps_of_this_call(clock):
    job = job_after(clock, seconds=50, done=150)
    assert job.describe() == "train: 150/200 steps, 0:50 so far, 0:50 left"
    clock[0] += 10
    assert job.describe().endswith("1:00 so far, 0:40 left")


def test_what_is_loaded_before_the_first_step_does_not_slow_the_estimate(clock):
    job = Job("train")
    clock[0] += 3600
    job.report(steps(0))
    clock[0] += 1
    job.report(steps(1))
    assert job.describe() == "train: 1/200 steps, 1:00:01 so far, 3:19 left"


def test_nothing_is_estimated_before_something_is_done(clock):
    job = Job("verify")
    job.report(Progress(0, 3, unit="specs", label="zoo:mednext-S"))
    assert job.describe() == "verify: 0/3 specs, zoo:mednext-S, 0:00 so far"


def test_large_numbers_are_counted_in_millions_and_a_verb_shows_its_speed(clock):
    job = Job("predict", speed=lambda rate: f"{rate / 1e6:g} Mvoxel/s")
    job.report(Progress(0, 4_000_000, unit="voxels"))
    clock[0] += 2
    job.report(Progress(1_000_000, 4_000_000, unit="voxels"))
    assert job.describe() == "predict: 1.0/4.0 M voxels, 0.5 Mvoxel/s, 0:02 so far, 0:06 left"


def test_a_narrow_terminal_goes_without_what_matters_least(clock):
    job = job_after(clock, seconds=50, done=150, numbers=NUMBERS)
    lines = [job.line(width) for width in (100, 79, 60, 40, 30, 20)]
    assert lines == [
        "train  ━━━━━━━━━━━━━━━─────  150/200  loss 0.250  val/dice 0.500  val/iou 0.400  0:50  0:50 left",
        "train  ━━━━━━━━━━━────  150/200  loss 0.250  val/dice 0.500  0:50  0:50 left",
        "train  ━━━━━━━━━───  150/200  loss 0.250  0:50  0:50 left",
        "train  ━━━━━━━───  150/200  0:50 left",
        "train  150/200  0:50 left",
        "train  150/200  0:50",
    ]


def test_a_label_that_is_too_long_ends_in_an_ellipsis(clock):
    job = job_after(clock, seconds=50, done=150, label="my-models/" * 6)
    assert job.line(79) == "train  ━━━━━━━━━━━────  150/200  0:50 left  my-models/my-models/my-models/my-m…"
    assert "my-models" not in job.line(50)


def test_no_line_is_wider_than_the_terminal(clock):
    job = job_after(clock, seconds=5000, done=101, numbers=NUMBERS, label="x" * 50, verb="predict")
    assert all(len(job.line(width)) <= width for width in range(1, 200))
    assert all(len(Job("predict").line(width)) <= width for width in range(1, 20))


def test_a_terminal_without_unicode_gets_a_bar_of_ascii(clock):
    assert job_after(clock, seconds=50, done=150).line(50, plain=True).isascii()


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


# In a terminal --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal of 40 columns, and what it shows."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """The lines after everything that was written, without blanks at their ends."""
        rows, column = [""], 0
        for character in re.sub(r"\x1b\[\d*[A-Za-z]", "", self.getvalue()):
            if character == "\n":
                rows, column = [*rows, ""], 0
            elif character == "\r":
                column = 0
            else:
                rows[-1] = rows[-1].ljust(column)[:column] + character + rows[-1][column + 1 :]
                column += 1
        return [row.rstrip() for row in rows]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(_progress, "FRAME_SECONDS", 60.0)
    return Terminal()


@contextmanager
def bar_on(terminal, verb):
    """Show the bar of `verb`, which is stderr meanwhile, and look that it is not any more afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        try:
            with show_progress(verb) as progress:
                yield progress
        finally:
            assert sys.stderr is terminal


def draw():
    """Do what the bar does now and then."""
    sys.stderr._draw()


def test_the_bar_stays_in_the_last_line_below_what_others_write(terminal):
    with bar_on(terminal, "train") as progress:
        progress(steps(0))
        draw()
        assert terminal.screen() == ["train  ──────────  0/200  0:00"]
        print("zoo: a warning", file=sys.stderr)
        assert terminal.screen() == ["zoo: a warning", "train  ──────────  0/200  0:00"]


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
        draw()
        sys.stderr.write("\rmodel.safetensors:  50%")
        draw()
        assert terminal.screen() == ["model.safetensors:  50%"]
        sys.stderr.write("\rmodel.safetensors: 100%\n")
        assert terminal.screen() == ["model.safetensors: 100%", "predict  0:00"]


def test_a_terminal_that_becomes_narrower_has_the_wrapped_bar_removed(terminal, monkeypatch):
    with bar_on(terminal, "train") as progress:
        progress(steps(0))
        draw()
        monkeypatch.setenv("COLUMNS", "20")
        draw()
    # One line up, to where the bar begins that is two lines by now, and everything from there is erased.
    assert "\x1b[1A\r\x1b[J\rtrain  0/200  0:00" in terminal.getvalue()


def test_the_clock_goes_on_while_nothing_is_reported(terminal, monkeypatch):
    monkeypatch.setattr(_progress, "FRAME_SECONDS", 0.001)
    with bar_on(terminal, "train"):
        pictures = (time.sleep(0.001) or terminal.getvalue().count("train  0:0") for _ in range(30_000))
        assert any(count > 1 for count in pictures)
