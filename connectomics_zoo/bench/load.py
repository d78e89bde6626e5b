"""Other work beside a measurement: processes that keep cores busy, as on a laptop or a login node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_BUSY = "import sys\nsys.stdout.write('.')\nsys.stdout.flush()\nwhile True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within it, `count` other processes compute without a pause; at its beginning each of them does already."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-I", "-c", _BUSY], stdout=subprocess.PIPE)
            running.append(process)
        for process in running:
            assert process.stdout is not None
            process.stdout.read(1)
        yield
    finally:
        for process in running:
            process.kill()
            process.communicate()
