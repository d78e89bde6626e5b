"""Kills processes of a prediction and of a decoding at random moments, and looks at what that cost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.common import Section, Settings, table
from scaling.material import read
from scaling.processes import command_line, end, start, workers_of
from scaling.small import BLOCK, JOURNAL

WORKERS = 3

LONGEST_S = 16.0
"""Of the time between two kills, or from a start to the next kill, which is random."""

_GONE_S = 60.0
"""Seconds after which workers whose main process was killed must have ended."""


@dataclass
class Tally:
    """What was killed, and what that cost."""

    targets: list[str]
    """Who is killed next: the last ones first."""
    random: random.Random
    of_workers: int = 0
    of_main: int = 0
    started: int = 0
    """Blocks that were begun."""
    needed: int = 0
    """Blocks that there were."""
    forgotten: int = 0
    """Blocks that were begun again after they were done."""
    runs: int = 0
    """Outputs that were finished."""
    differing: int = 0
    """Of these, the ones that were not what an undisturbed run gives."""
    seen: set[int] = field(default_factory=set)
    """Workers whose main process was killed."""

    @property
    def lost(self) -> int:
        """Blocks that were begun more often than once."""
        return self.started - self.needed

    @property
    def limit(self) -> int:
        """Blocks that were in work at most in the moments of the kills."""
        return self.of_workers + WORKERS * self.of_main


def measure_kills(settings: Settings) -> dict[str, Any]:
    """Disturb both verbs.

    Raises:
        RuntimeError: a command failed, or workers did not end.
    """
    rows = []
    multiple = max(settings.multiples)
    for verb in ("predict", "decode"):
        print(f"scale: {settings.kills} kills of zoo {verb} …", file=sys.stderr)
        folder = settings.scratch / f"kills-{verb}"
        folder.mkdir()
        block = ",".join([str(BLOCK)] * 3)
        make = settings.material.predict if verb == "predict" else settings.material.decode
        options = () if verb == "predict" else ("--block", block)
        end(start(make(multiple, folder / "undisturbed.zarr", *options)))
        expected = read(folder / "undisturbed.zarr")
        tally = Tally(targets_of(settings.kills), random.Random(settings.seed))
        while tally.targets:
            out = folder / f"out-{tally.runs}.zarr"
            finish_disturbed(make(multiple, out, "--workers", str(WORKERS), *options), folder, tally)
            tally.runs += 1
            tally.differing += not np.array_equal(read(out), expected)
            shutil.rmtree(out)
        wait_for_the_end(tally.seen)
        rows.append(
            {
                "verb": verb,
                **{name: getattr(tally, name) for name in ("of_workers", "of_main", "runs", "differing")},
                **{name: getattr(tally, name) for name in ("needed", "lost", "limit", "forgotten")},
            }
        )
        shutil.rmtree(folder)
    return {"workers": WORKERS, "longest_s": LONGEST_S, "rows": rows}


def targets_of(kills: int) -> list[str]:
    """Return who is killed: workers and the main process in turns."""
    return ["main" if number % 2 else "worker" for number in range(kills)]


def finish_disturbed(arguments: Sequence[str], folder: Path, tally: Tally) -> None:
    """Repeat a command until it has ended by itself, and kill what is due meanwhile."""
    journal = folder / "journal.jsonl"
    journal.touch()
    while not ends_undisturbed(start(arguments, **{JOURNAL: str(journal)}), tally):
        continue
    count_blocks(journal, tally)
    journal.unlink()


def ends_undisturbed(process: subprocess.Popen[str], tally: Tally) -> bool:
    """Kill a command, or workers of it, at random moments; return whether it has ended by itself.

    Raises:
        RuntimeError: it failed.
    """
    while tally.targets:
        try:
            process.wait(tally.random.uniform(0, LONGEST_S))
        except subprocess.TimeoutExpired:
            pass
        else:
            break
        workers = workers_of(process.pid)
        if tally.targets[-1] == "worker":
            while not workers and process.poll() is None:
                time.sleep(0.01)
                workers = workers_of(process.pid)
            if not workers:
                break
            with suppress(ProcessLookupError):
                os.kill(tally.random.choice(workers), signal.SIGKILL)
            tally.of_workers += 1
            tally.targets.pop()
        else:
            tally.seen.update(workers)
            process.kill()
            process.communicate()
            tally.of_main += 1
            tally.targets.pop()
            return False
        print(f"scale: {len(tally.targets)} kills to come", file=sys.stderr)
    end(process)
    return True


def count_blocks(journal: Path, tally: Tally) -> None:
    """Count what workers wrote down of a job that is finished."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    done = set()
    begun = set()
    for entry in entries:
        block = (entry["stage"], entry["block"])
        if entry["event"] == "begun":
            tally.started += 1
            tally.forgotten += block in done
            begun.add(block)
        else:
            done.add(block)
    tally.needed += len(begun)


def wait_for_the_end(pids: set[int]) -> None:
    """Wait until workers whose main process was killed have ended.

    Raises:
        RuntimeError: they do not.
    """
    limit = time.monotonic() + _GONE_S
    while left := [pid for pid in pids if b"dask_worker" in command_line(pid)]:
        if time.monotonic() > limit:
            raise RuntimeError(f"workers of a process that was killed are still there: {left}")
        time.sleep(0.1)


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        [
            f"`zoo {row['verb']}`",
            f"{row['of_workers']} of workers, {row['of_main']} of the main process",
            f"{row['runs'] - row['differing']} of {row['runs']}",
            str(row["needed"]),
            f"{row['lost']} (at most {row['limit']})",
            str(row["forgotten"]),
        ]
        for row in data["rows"]
    ]
    headers = ["", "SIGKILLs", "outputs that are identical to an undisturbed one's", "blocks >"]
    return (
        f"Over {data['workers']} workers, at random moments, up to {data['longest_s']:.0f} s apart; after a kill of "
        "the main process the command was repeated at once. A block is lost that was begun and had to be begun again; "
        "those in work at a kill are one for a worker, and all workers' for the main process.\n\n"
        + table([*headers, "lost >", "done ones that were done again >"], rows)
    )


SECTION = Section("What kills cost", measure_kills, render)
