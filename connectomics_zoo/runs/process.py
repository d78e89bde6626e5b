"""Which process this is, and whether one that is named in a file still runs."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from connectomics_zoo.files.local import is_local
from connectomics_zoo.schema.base import Node

_PROC = Path("/proc")

ENDED = "ended"
"""Stands for the start of a process that has ended and whose parent has not been told yet."""


class Process(Node):
    """A process, told from every other one, now and later."""

    host: str
    """Name of its machine."""
    boot: str
    """Which start of that machine; empty where the system does not say."""
    namespace: str
    """Where its number counts: containers on one machine may count their own processes; empty as above."""
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    """Its number."""
    started: str
    """When it started, since numbers are used again: ticks since the machine's start, or a date; empty as above."""


def this_process() -> Process:
    """Return the process that calls."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), boot=_boot(), namespace=_namespace(), pid=pid, started=_start(pid) or "")


def find_state(process: Process, *, named_in: Path) -> Literal["running", "gone", "unknown"]:
    """Return whether `process`, which a file in the folder `named_in` names, runs.

    Of another machine, or of a container with its own numbers, that is unknown.
    """
    here = this_process()
    if process.host != here.host:
        return "unknown"
    if process.boot != here.boot:
        # Machines that share a file system may share a name: localhost, or that of the machine that they are copies of.
        return "gone" if is_local(named_in) else "unknown"
    if process.namespace != here.namespace or os.name == "nt":  # there, signal 0 would reach the process
        return "unknown"
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:  # it runs, and is another user's
        pass
    started = _start(process.pid)
    if started == ENDED:
        return "gone"
    return "running" if not started or process.started in ("", started) else "gone"


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _start(pid: int) -> str | None:
    """Return when a process started, `ENDED` where it has ended, None where the system does not say."""
    if not (_PROC / "self/stat").exists():
        return _start_of_ps(pid)
    try:
        # The name in parentheses may hold anything; the state follows it, and the start is the 20th after it.
        fields = (_PROC / f"{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return ENDED if fields[0] in ("Z", "X") else fields[19]


def _start_of_ps(pid: int) -> str | None:
    """Return the same where there is no /proc, as on macOS."""
    command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C", "TZ": "UTC"}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    state, _, started = result.stdout.strip().partition(" ")
    return ENDED if state.startswith("Z") else " ".join(started.split())
