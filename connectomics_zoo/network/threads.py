"""Threads of the CPU: how many this process may have, and how they wait for each other; without torch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from pathlib import Path

WAITING = {"GOMP_SPINCOUNT": "100000", "KMP_BLOCKTIME": "1"}
"""How long a thread that waits for the others stays on its core: rounds of GNU's OpenMP, which torch uses on Linux, and
milliseconds of Intel's and LLVM's, which it uses elsewhere.

By default they wait for long, since nothing else is meant to run. Beside other work, on a laptop or a login node, each
waits then for a thread that has no core while it holds the core itself, and a network takes up to ten times as long.
Fewer rounds give the core away sooner, and cost time where nobody wants it: on two idle cores of a Xeon with AMX, 1000
rounds made mednext-S a third slower, 100000 did not (`scripts/bench --only busy`).
"""

_MAPPED = Path("/proc/self/maps")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OPENBLAS_NAMES = [(prefix, ending) for prefix in ("", "scipy_") for ending in ("", "64_")]
"""What the builds of OpenBLAS put before and behind the names of their functions; `_64_` ends those of Fortran."""


def usable_cores() -> int:
    """Return the number of logical cores that this process may use, at least 1.

    A scheduler or `taskset` pins a process to cores, and a container may have a quota of time on them
    (`docker --cpus 1.5`): the smaller one counts, of a fraction the next whole number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = core_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def core_quota() -> float | None:
    """Return the cores' worth of time that the control groups of this process allow, None where there is no limit.

    Both versions of Linux's control groups are understood; a group is limited by those that it lies in, too.
    """
    quotas = [quota for folder in _own_groups() for quota in (_quota_of(folder),) if quota is not None]
    return min(quotas, default=None)


def keep_blas_to_one_thread() -> None:
    """Let the OpenBLAS of numpy and scipy, on Linux, compute with one thread from now on.

    For one of several processes that share the cores: each would take all of them for a product of matrices. Torch's
    loader sets torch's own threads in its workers, and not these.
    """
    for path in {line.split()[-1] for line in _read(_MAPPED).splitlines() if "openblas" in line}:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for name in (f"{prefix}openblas_set_num_threads{ending}" for prefix, ending in _OPENBLAS_NAMES):
                if hasattr(library, name):
                    getattr(library, name)(1)


def _own_groups() -> list[Path]:
    """The folders of this process's control groups and of all that they lie in."""
    folders = []
    for line in _read(_MEMBERSHIP).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CONTROL_GROUPS / controllers if controllers else _CONTROL_GROUPS
        own = root / path.lstrip("/")
        # In a container the path may be as the host sees it, and the root is the own group already.
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return folders


def _quota_of(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or nothing is there
        return None
    return limit if limit > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
