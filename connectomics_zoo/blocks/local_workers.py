"""Dask workers on this machine: a process each, which share its cores and GPUs."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from connectomics_zoo.network.threads import usable_cores

PATIENCE = 180.0
"""Seconds after which it is an error that no worker has started."""

LIVES = 20
"""How often a worker's process is started at most without a block done in between."""

_LEAVE = 2.0
"""Seconds that workers have to end by themselves."""

_LOOPBACK = "127.0.0.1"

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What libraries read when they are loaded."""


@contextmanager
def local_workers(count: int, *, folder: Path | None) -> Iterator[LocalWorkers]:
    """Yield the workers of a scheduler in this process, on the loopback interface.

    Where cryptography is installed, nobody else on this machine can talk to them.

    Args:
        count: how many.
        folder: the job's folder, which gets what they print; without, it goes to the temporary folder.
    """
    import distributed

    open_cluster: Any = distributed.LocalCluster  # which has no types
    security = _keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dashboard's usual port may be taken
        scheduler = open_cluster(
            n_workers=0,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:8787",
            security=security,
        )
    workers = LocalWorkers(count, address=scheduler.scheduler_address, folder=folder, security=security)
    workers.dashboard = scheduler.dashboard_link if has_dashboard() else None
    try:
        workers.start()
        yield workers
    finally:
        workers.stop()
        scheduler.close(timeout=_LEAVE)


def _keys() -> Any:
    """Return keys for this scheduler and its workers alone, which Dask asks of all who connect; None without means."""
    if importlib.util.find_spec("cryptography") is None:
        return None
    import distributed

    make_keys: Any = distributed.Security.temporary  # which has no types
    return make_keys()


def has_dashboard() -> bool:
    """Whether Dask can show its page."""
    return importlib.util.find_spec("bokeh") is not None


class LocalWorkers:
    """Processes of this machine.

    Args:
        count: how many.
        address: the scheduler's.
        folder: gets what they print.
        security: Dask's, with the keys of the scheduler; None where it has none.
    """

    def __init__(self, count: int, *, address: str, folder: Path | None, security: Any = None) -> None:
        self.address = address
        self.security = security
        self.patience = PATIENCE
        self.dashboard: str | None = None
        self._count = count
        self._log = (folder or Path(tempfile.gettempdir())) / f"workers-{os.getpid()}.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self._gpus = _visible_gpus()

    def start(self) -> None:
        """Start all of them."""
        self._processes = [self._spawn(number) for number in range(self._count)]

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        self._started += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "distributed.cli.dask_worker", self.address),
                    *("--name", f"worker-{number}-{self._started}", "--nthreads", "1", "--no-nanny"),
                    *("--no-dashboard", "--dashboard-address", f"{_LOOPBACK}:0"),
                    *("--host", _LOOPBACK, "--memory-limit", "0", "--death-timeout", "60"),
                    *("--preload", "connectomics_zoo.blocks.dask_worker"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment(number)},
                start_new_session=True,  # Ctrl-C is for this process, which ends them
            )

    def environment(self, number: int) -> dict[str, str]:
        """Return what a worker's process has other than this one: its share of the cores, its GPU, imports, keys."""
        share = max(1, usable_cores() // self._count)
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(share, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else share
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[number % len(self._gpus)]} if self._gpus else {}
        paths = os.pathsep.join(path for path in sys.path if path)
        return {**dict.fromkeys(_THREADS, str(threads)), **gpu, "PYTHONPATH": paths, **self._keys()}

    def _keys(self) -> dict[str, str]:
        """Return the keys as Dask reads them of the environment, which other users cannot see."""
        if self.security is None:
            return {}
        keys = self.security.get_tls_config_for_role("worker")
        comm = "DASK_DISTRIBUTED__COMM"
        return {
            f"{comm}__REQUIRE_ENCRYPTION": "True",
            f"{comm}__TLS__CA_FILE": keys["ca_file"],
            f"{comm}__TLS__WORKER__CERT": keys["cert"],
            f"{comm}__TLS__WORKER__KEY": keys["key"],
        }

    def keep_up(self, *, present: int, is_working: bool) -> None:
        """Start those anew that were killed."""
        if is_working:
            self._started = self._count
        for number, process in enumerate(self._processes):
            if process.poll() is not None and self._started < LIVES * self._count:
                self._processes[number] = self._spawn(number)
        if all(process.poll() is not None for process in self._processes):
            self.patience = 0.0

    def renew(self, client: Any, address: str) -> None:
        """Replace the process of a worker."""
        pids = client.run(os.getpid, workers=[address], on_error="ignore")
        for process in self._processes:
            if process.pid in pids.values():
                process.kill()

    def explain(self) -> str:
        """Return why there is no worker."""
        with suppress(OSError):
            said = [
                line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
            if said:
                return f"no worker has started on this machine, the last that one said is: {said[-1].strip()[:300]}."
        return (
            f"no worker has started on this machine within {PATIENCE:.0f} s, ask for fewer or wait for others to end."
        )

    def stop(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.terminate()
        end = time.monotonic() + _LEAVE
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(number) for number in range(count)]
