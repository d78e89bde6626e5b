"""Threads of the command line: as many as the process may use, which wait without taking the cores from others."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long a thread that waits for the others stays on its core: rounds of GNU's OpenMP, which torch uses on Linux, and
milliseconds of Intel's and LLVM's, which it uses elsewhere.

By default they wait for long, since nothing else is meant to run. Beside other work, on a laptop or a login node, each
waits then for a thread that has no core while it holds the core itself, and a network takes up to ten times as long.
"""


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what OpenMP reads when torch is loaded, unless the user did: before torch is imported, and not later."""
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in WAITING.items():
            environment.setdefault(name, value)
    if "OMP_NUM_THREADS" not in environment:
        from connectomics_zoo.network.cores import core_quota, usable_cores

        # Affinity is known to OpenMP, a quota is not: the threads beyond it would only be stopped in turns.
        if core_quota() is not None:
            environment["OMP_NUM_THREADS"] = str(usable_cores())
