"""Processes: those that a command starts, and how much memory each of them had at most, as Linux says it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.small import COMMAND, environment

LOOK_S = 0.05
"""Seconds between two looks at the processes."""

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Measured:
    """What a command took."""

    seconds: float
    """From its start to its end."""
    main_bytes: int
    """Resident memory of its process, at most."""
    worker_bytes: int | None
    """Of the largest of its Dask workers; None where it has none."""


def start(arguments: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """Start `zoo` with small blocks; `more` are environment variables."""
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process, and return what it printed.

    Raises:
        RuntimeError: it failed.
    """
    printed, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, process.args[3:]))}: exit code {process.returncode}\n{error}")
    return printed


def measure(arguments: Sequence[str]) -> Measured:
    """Run `zoo` with small blocks.

    Raises:
        RuntimeError: it failed.
    """
    begin = time.perf_counter()
    process = start(arguments)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in (process.pid, *workers_of(process.pid)):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        time.sleep(LOOK_S)
    seconds = time.perf_counter() - begin
    end(process)
    main = peaks.pop(process.pid)
    return Measured(seconds, main, max(peaks.values(), default=None))


def peak_bytes(pid: int) -> int:
    """Return how much memory a process has had at most, 0 where it has gone."""
    try:
        match = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return 1024 * int(match[1]) if match else 0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process, or one of these, has started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has gone
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def workers_of(pid: int) -> list[int]:
    """Return the Dask workers that a process has started."""
    return [child for child in descendants(pid) if b"dask_worker" in command_line(child)]


def command_line(pid: int) -> bytes:
    """Return the command of a process, empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
