"""Workers from SLURM, as a cluster file describes them."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from connectomics_zoo.blocks.dask_worker import GPUS
from connectomics_zoo.blocks.local_workers import has_dashboard
from connectomics_zoo.errors import CheckFailedError, MissingPackageError, OutputError, reason
from connectomics_zoo.schema.cluster import ClusterSpec

RENEWAL = 20.0
"""Seconds between two looks at whether jobs have ended that are to be replaced."""

_DEATH_TIMEOUT = 120
"""Seconds that a worker waits for a scheduler that does not answer when it starts."""

_ASK = 30
"""Seconds that SLURM may take to answer."""


def lifetime_s(spec: ClusterSpec) -> tuple[int, int]:
    """Return after how many seconds a worker ends, and by how many each is earlier or later than that.

    All are earlier than the job's limit, at which SLURM would kill them, and not all at once.
    """
    margin = max(10, min(300, spec.walltime_s // 20))
    return spec.walltime_s - 2 * margin, margin


def directives(spec: ClusterSpec) -> list[str]:
    """Return the directives of a job that dask-jobqueue has no names for."""
    named = {"--qos": spec.qos, "--constraint": spec.constraint}
    gpus = [f"--gres=gpu:{spec.gpus}"] if spec.gpus else []
    return [*(f"{name}={value}" for name, value in named.items() if value is not None), *gpus, *spec.extra_directives]


def prologue(spec: ClusterSpec) -> list[str]:
    """Return the lines of bash before a worker starts."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return [*spec.environment, *(f"export {name}={spec.threads}" for name in names), f"export {GPUS}={spec.gpus}"]


def job_script(spec: ClusterSpec) -> str:
    """Return the script that is submitted for each job, with a stand-in for the scheduler's address.

    Raises:
        MissingPackageError: dask-jobqueue is not installed.
    """
    jobqueue = _import_jobqueue()
    job = jobqueue.slurm.SLURMJob("tcp://SCHEDULER:PORT", name="zoo", **_job_options(spec))
    return str(job.job_script())


def _import_jobqueue() -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise MissingPackageError(
            "dask-jobqueue is not installed, which asks SLURM for workers: pip install 'connectomics-zoo[cluster]'."
        ) from None
    return dask_jobqueue


def _job_options(spec: ClusterSpec) -> dict[str, Any]:
    lifetime, stagger = lifetime_s(spec)
    logs = [f"--{stream}={spec.log_folder}/zoo-%j.log" for stream in ("output", "error")]
    return {
        "queue": spec.partition,
        "account": spec.account,
        "cores": spec.cores,
        "memory": spec.memory,
        "processes": spec.workers,
        "walltime": spec.walltime,
        "python": spec.python,
        "interface": spec.interface,
        "job_name": "zoo",
        "death_timeout": _DEATH_TIMEOUT,
        "job_extra_directives": [*logs, "--no-requeue", *directives(spec)],
        "job_script_prologue": prologue(spec),
        "worker_extra_args": [
            *("--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
            *("--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"),
            *("--preload", "connectomics_zoo.blocks.dask_worker"),
        ],
    }


@contextmanager
def slurm_workers(spec: ClusterSpec) -> Iterator[SlurmWorkers]:
    """Yield the workers of jobs that are submitted, and cancelled at the end.

    Raises:
        MissingPackageError: dask-jobqueue or SLURM are not there.
        CheckFailedError: SLURM refuses the jobs.
        OutputError: the folder for logs cannot be made.
    """
    jobqueue = _import_jobqueue()
    require_slurm()
    try:
        Path(spec.log_folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{spec.log_folder}: the folder for what jobs print cannot be made ({reason(error)}), give another one as "
            "log_folder."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dashboard's usual port may be taken
        try:
            cluster = jobqueue.SLURMCluster(
                **_job_options(spec),
                scheduler_options={"dashboard_address": "127.0.0.1:8787"},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckFailedError(
                f"the scheduler for SLURM's jobs does not start ({reason(error)}): check the interface in the cluster "
                "file."
            ) from None
    workers = SlurmWorkers(cluster, spec)
    try:
        workers.submit()
        yield workers
    finally:
        with suppress(TimeoutError, RuntimeError, AssertionError):  # Dask asserts that all jobs were taken
            cluster.close(timeout=_ASK)


def require_slurm() -> None:
    """Refuse to go on where there is no SLURM.

    Raises:
        MissingPackageError: its commands are not on the path.
    """
    if shutil.which("sbatch") is None:
        raise MissingPackageError(
            "SLURM is not here (there is no sbatch on the path): run this on a login node, or use workers of this "
            "machine (--workers N)."
        )


class SlurmWorkers:
    """Jobs of SLURM.

    Args:
        cluster: dask-jobqueue's cluster.
        spec: what was asked for.
    """

    def __init__(self, cluster: Any, spec: ClusterSpec) -> None:
        self.address: str = cluster.scheduler_address
        self.patience = float(spec.start_timeout_s)
        # Dask names the host that nodes reach, and the page is for this machine alone.
        self.dashboard = (
            re.sub(r"//[^/]*:(\d+)/", r"//127.0.0.1:\1/", cluster.dashboard_link) if has_dashboard() else None
        )
        self.security: Any = None  # jobs on other nodes have the keys of Dask's configuration
        self._cluster = cluster
        self._spec = spec
        self._renewed = time.monotonic()
        self._has_worked = False

    def submit(self) -> None:
        """Ask for the jobs that are missing.

        Raises:
            CheckFailedError: SLURM refuses them.
        """
        try:
            self._cluster.sync(self._ask)
        except RuntimeError as error:
            raise CheckFailedError(
                f"SLURM refuses the job ({_last_line(str(error))}): mend that in the cluster file."
            ) from None

    async def _ask(self) -> None:
        while len(self._cluster.worker_spec) < self._spec.jobs:
            self._cluster.worker_spec.update(self._cluster.new_worker_spec())
        await self._cluster._correct_state()

    def keep_up(self, *, present: int, is_working: bool) -> None:
        """Replace jobs that have ended, unless none of them has done a block."""
        self._has_worked |= is_working
        now = time.monotonic()
        if present >= self._spec.jobs * self._spec.workers or now - self._renewed < RENEWAL:
            return
        self._renewed = now
        waiting = self._queued()
        if waiting is None:
            return
        gone = [name for name, job in self._cluster.workers.items() if job.job_id not in waiting]
        if gone and not self._has_worked and not present and len(gone) == len(self._cluster.workers):
            self.patience = 0.0  # none will come
        elif gone and self._has_worked:
            self._has_worked = False
            self._cluster.sync(self._forget, gone)
            self.submit()

    async def _forget(self, names: list[str]) -> None:
        for name in names:
            self._cluster.workers.pop(name, None)

    def renew(self, client: Any, address: str) -> None:
        """Replace the process of a worker, within its job."""
        with suppress(Exception):  # it may be gone, which is seen elsewhere
            client.restart_workers([address], timeout=_ASK, raise_for_error=False)

    def explain(self) -> str:
        """Return why there is no worker, with what SLURM says."""
        waiting = self._queued()
        ids = [job.job_id for job in self._cluster.workers.values()]
        if waiting:
            shown = "; ".join(f"{job} {state}" for job, state in sorted(waiting.items())[:3])
            return (
                f"no worker has started within {self._spec.start_timeout_s} s, squeue says {shown}: ask for less, or "
                "give a longer start_timeout_s in the cluster file."
            )
        said = [text for text in map(self._log_of, ids) if text]
        return (
            f"SLURM's jobs ({', '.join(ids[:3])}) ended before a worker came"
            + (f", the log says: {said[0]}" if said else "")
            + f": see {self._spec.log_folder}, and check environment and python in the cluster file."
        )

    def _log_of(self, job: str) -> str:
        with suppress(OSError):
            lines = (Path(self._spec.log_folder) / f"zoo-{job}.log").read_text(errors="replace").splitlines()
            said = [line.strip() for line in lines if line.strip()]
            return said[-1][:300] if said else ""
        return ""

    def _queued(self) -> dict[str, str] | None:
        """Return the state of those jobs that SLURM has not ended, None where it does not say."""
        command = ["squeue", "--noheader", "--me", "--states=all", "--format=%i %T (%r)"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        ours = {job.job_id for job in self._cluster.workers.values()}
        states = dict(line.split(" ", 1) for line in answer.splitlines() if " " in line)
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL")
        return {job: state for job, state in states.items() if job in ours and not state.startswith(ended)}


def _last_line(text: str) -> str:
    """Return the last line that says something, as that of `sbatch`'s errors does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: error: ").rstrip(".") if lines else "it does not say why"
