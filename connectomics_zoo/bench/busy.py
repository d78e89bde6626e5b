"""Other work beside a measurement: processes that keep cores busy, as on a laptop or a login node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_BUSY = """
import os, sys
parent = int(sys.argv[1])
sys.stdout.write(".")
sys.stdout.flush()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""
"""Computes as long as the process that started it lives, however that ends."""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within it, `count` other processes compute without a pause; at its beginning each of them does already."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-I", "-c", _BUSY, str(os.getpid())], stdout=subprocess.PIPE)
            running.append(process)
        for process in running:
            assert process.stdout is not None
            process.stdout.read(1)
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()
