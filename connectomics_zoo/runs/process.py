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


class Job(Node):
    """A job of SLURM, at one of its starts: a requeued job keeps its number and counts its restarts."""

    cluster: str
    """Name of the cluster; empty where SLURM does not say."""
    number: str
    """As `squeue --job` takes it: `77`, or `77_3` in an array."""
    restarts: Annotated[int, Field(ge=0)]
    """How often it was requeued."""


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
    job: Job | None = None
    """The job of SLURM that it is part of."""


def this_process() -> Process:
    """Return the process that calls."""
    pid = os.getpid()
    return Process(
        host=socket.gethostname(),
        boot=_boot(),
        namespace=_namespace(),
        pid=pid,
        started=_start(pid) or "",
        job=_job(),
    )


def find_state(process: Process, *, named_in: Path) -> Literal["running", "gone", "unknown"]:
    """Return whether `process`, which a file in the folder `named_in` names, runs.

    Of another machine, or of a container with its own numbers, that is unknown, unless it was of an earlier start of
    the job that this process is of: SLURM starts a job again when that is over.
    """
    here = this_process()
    state = _seen_from(here, process, named_in=named_in)
    return "gone" if state == "unknown" and _is_restarted(process.job, here.job) else state


def _is_restarted(before: Job | None, now: Job | None) -> bool:
    return (
        before is not None
        and now is not None
        and (before.cluster, before.number) == (now.cluster, now.number)
        and before.restarts < now.restarts
    )


def _seen_from(here: Process, process: Process, *, named_in: Path) -> Literal["running", "gone", "unknown"]:
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


def _job() -> Job | None:
    """Return the job of SLURM that this process is part of, None where it is of none."""
    environment = os.environ
    number = environment.get("SLURM_JOB_ID")
    if not number:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    restarts = environment.get("SLURM_RESTART_COUNT", "")  # at the first start, there is none
    return Job(
        cluster=environment.get("SLURM_CLUSTER_NAME", ""),
        number=f"{array}_{task}" if array and task else number,
        restarts=int(restarts) if restarts.isdecimal() else 0,
    )


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
