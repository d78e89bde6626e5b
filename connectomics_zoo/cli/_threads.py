"""Threads of the command line: as many as the process may use, which wait without taking the cores from others."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from connectomics_zoo.network.threads import WAITING, core_quota, usable_cores


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what OpenMP reads when torch is loaded, unless the user did: before torch is imported, and not later."""
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in WAITING.items():
            environment.setdefault(name, value)
    # Affinity is known to OpenMP, a quota is not: the threads beyond it would only be stopped in turns.
    if "OMP_NUM_THREADS" not in environment and core_quota() is not None:
        environment["OMP_NUM_THREADS"] = str(usable_cores())
