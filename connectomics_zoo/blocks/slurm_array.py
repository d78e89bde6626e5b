"""The script of a SLURM job array, whose jobs share the blocks of a job without any other engine."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from connectomics_zoo.blocks.slurm import directives
from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.cluster import ClusterSpec, walltime_seconds

USUAL_ARRAY_SIZE = 1000
"""What SLURM allows where nobody has set it; it says so as MaxArraySize = 1001."""

_RESTARTS = 200
"""How often a job of an array goes on after its limit of time, at most."""

_ASK = 30
"""Seconds that SLURM may take to answer."""


@dataclass(frozen=True)
class Resources:
    """What a job of an array gets."""

    cores: int
    memory_mb: int
    gpus: int
    walltime: str
    """`HH:MM:SS` or `D-HH:MM:SS`."""


def max_array_size() -> int:
    """Return how many jobs an array may have: what the SLURM here says, or what is usual."""
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=_ASK, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return USUAL_ARRAY_SIZE
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    # It is one more than the largest number that a job may have, and we count from 0.
    return int(match[1]) if match else USUAL_ARRAY_SIZE


def array_script(
    command: Sequence[str],
    *,
    count: int,
    at_once: int | None,
    resources: Resources,
    cluster: ClusterSpec | None = None,
) -> str:
    """Return the script for `sbatch`.

    Args:
        command: what each job runs; the share is added.
        count: jobs of the array.
        at_once: how many run at the same time at most.
        resources: what each job gets.
        cluster: has partition, account and the like.

    Raises:
        SpecError: SLURM does not take an array of so many jobs.
    """
    limit = max_array_size()
    if count > limit:
        raise SpecError(
            f"{count} jobs are too many for an array, this SLURM allows {limit}: give --shard-count {limit}."
        )
    named = {"--partition": cluster.partition, "--account": cluster.account} if cluster is not None else {}
    lines = [
        "--job-name=zoo",
        f"--array=0-{count - 1}" + (f"%{at_once}" if at_once is not None and at_once < count else ""),
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{_notice_seconds(resources.walltime)}",
        f"--time={resources.walltime}",
        f"--cpus-per-task={resources.cores}",
        f"--mem={resources.memory_mb}M",
        "--output=zoo-%A_%a.log",
        *(f"{name}={value}" for name, value in named.items() if value is not None),
        *(directives(cluster) if cluster is not None else [f"--gres=gpu:{resources.gpus}"] * bool(resources.gpus)),
    ]
    environment = "\n".join(cluster.environment) if cluster is not None else ""
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in lines),
        environment=f"{environment}\n" if environment else "",
        command=shlex.join(command),
        count=count,
        restarts=_RESTARTS,
    )


def _notice_seconds(walltime: str) -> int:
    """Return how long before its limit a job is told: long enough to end, and short beside its time."""
    return max(10, min(60, walltime_seconds(walltime) // 6))


# Not SIGTERM, which scancel sends as well: a cancelled job must not come back.
_SCRIPT = """\
#!/usr/bin/env bash
# Shares of one job, by zoo plan: submit it with sbatch. What is done is kept, so it may be submitted again.
{directives}

{environment}# Shortly before the limit of time: end, and wait for another turn. One block is lost at most.
again() {{
    kill -TERM "$work" 2>/dev/null
    wait "$work"
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {restarts} ]; then exit 1; fi
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    exit 0
}}
trap again USR1

{command} --shard "$SLURM_ARRAY_TASK_ID/{count}" &
work=$!
wait "$work"
"""
