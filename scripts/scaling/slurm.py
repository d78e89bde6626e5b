"""A prediction by the jobs of a SLURM, and by an array of shares whose jobs are killed at their limit and requeued."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.files.yaml import dump_yaml
from scaling.common import Section, Settings, table
from scaling.material import read
from scaling.processes import end, start
from scaling.small import COMMAND, environment

SHORT = "short"
"""The partition whose jobs end after a minute; without it, the array is not tried."""

PATIENCE_S = 1200.0
"""Seconds that an array may take."""


def partitions() -> list[str]:
    """Return the partitions of the SLURM that is up here, with an idle node; none where there is no SLURM."""
    if shutil.which("sinfo") is None:
        return []
    command = ["sinfo", "--noheader", "--states=idle,mixed", "--format=%R"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def measure_slurm(settings: Settings) -> dict[str, Any] | None:
    """Run what can be run here."""
    found = partitions()
    if not found:
        print("scale: slurm is skipped, no SLURM with an idle node is up here (sinfo)", file=sys.stderr)
        return None
    folder = settings.scratch / "slurm"
    folder.mkdir()
    multiple = max(settings.multiples)
    begin = time.perf_counter()
    end(start(settings.material.predict(multiple, folder / "undisturbed.zarr")))
    rows = [{"way": "in one process", "seconds": time.perf_counter() - begin, "requeued": 0, "identical": True}]
    expected = read(folder / "undisturbed.zarr")
    for way, measure in (("`--cluster`, 2 jobs", by_cluster), ("`--shard` in an array of 2 jobs", by_array)):
        if measure is by_array and SHORT not in found:
            print(f"scale: the array is skipped, this SLURM has no partition {SHORT!r}", file=sys.stderr)
            continue
        print(f"scale: {way} …", file=sys.stderr)
        out, begin = folder / f"{measure.__name__}.zarr", time.perf_counter()
        requeued = measure(settings, multiple, out)
        seconds = time.perf_counter() - begin
        identical = bool(np.array_equal(read(out), expected))
        rows.append({"way": way, "seconds": seconds, "requeued": requeued, "identical": identical})
    return {"rows": rows}


def by_cluster(settings: Settings, multiple: int, out: Path) -> int:
    """Predict by Dask's jobs; nothing is requeued."""
    options = ("--cluster", str(cluster_file(out.parent / "cluster.yaml")))
    end(start(settings.material.predict(multiple, out, *options)))
    return 0


def by_array(settings: Settings, multiple: int, out: Path) -> int:
    """Predict by an array of shares in the partition of short jobs, and return how often one was requeued.

    Raises:
        RuntimeError: it takes too long, or a job fails.
    """
    folder = out.parent
    cluster, script = cluster_file(folder / "short.yaml", partition=SHORT), folder / "array.sbatch"
    run, image = str(settings.material.run), str(settings.material.image(multiple))
    options = ["--device", "cpu", "--voxels-per-second", "1e6", "--shard-count", "2"]
    end(start(["plan", run, image, str(out), *options, "--cluster", str(cluster), "--script", str(script)]))
    zoo = folder / "bin" / "zoo"  # which the script calls
    zoo.parent.mkdir()
    zoo.write_text(f'#!/bin/sh\nexec {COMMAND[0]} -c "{COMMAND[2]}" "$@"\n')
    zoo.chmod(0o755)
    submitted = subprocess.run(
        ["sbatch", "--parsable", script.name],
        cwd=folder,
        env=environment(PATH=f"{zoo.parent}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        check=True,
    )
    number, limit = submitted.stdout.strip(), time.monotonic() + PATIENCE_S
    restarts: dict[str, int] = {}
    try:
        while not out.exists() or queued(number):
            if time.monotonic() > limit or not (out.exists() or queued(number)):
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("zoo-*.log")))
                raise RuntimeError(f"job {number} has not made {out}: {logs}")
            for job, count in restarts_of(number):
                restarts[job] = max(restarts.get(job, 0), count)
            time.sleep(1)
    finally:
        subprocess.run(["scancel", number], capture_output=True, check=False)
    return sum(restarts.values())


def cluster_file(path: Path, *, partition: str | None = None) -> Path:
    """Write a cluster file for jobs of one core."""
    variables = environment()
    spec = {
        "schema_version": 1,
        "kind": "slurm",
        "jobs": 2,
        "cores": 1,
        "memory": "2GB",
        "walltime": "00:01:00" if partition == SHORT else "00:30:00",
        "interface": "lo",
        "log_folder": str(path.parent / "logs"),
        "environment": [f"export PYTHONPATH={variables['PYTHONPATH']}"],
        **({} if partition is None else {"partition": partition}),
    }
    path.write_text(dump_yaml(spec), encoding="utf-8")
    return path


def queued(number: str) -> bool:
    """Whether jobs of an array wait or run, also where SLURM does not answer for a while."""
    answer = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True, check=False)
    return bool(answer.stdout.strip()) or answer.returncode != 0


def restarts_of(number: str) -> list[tuple[str, int]]:
    """Return the jobs of an array, and how often each was requeued."""
    answer = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=False)
    found = re.findall(r"^JobId=(\d+) .*?Restarts=(\d+)", answer.stdout, re.MULTILINE | re.DOTALL)
    return [(job, int(count)) for job, count in found]


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        [row["way"], f"{row['seconds']:.0f} s", str(row["requeued"]), "yes" if row["identical"] else "no"]
        for row in data["rows"]
    ]
    return (
        "On a SLURM of one machine, the largest volume of the first table. The jobs of the array have a minute each, "
        "and go back into the queue until their share is done; SLURM lets them wait there for a while.\n\n"
        + table(["`zoo predict`", "time >", "times requeued >", "identical"], rows)
    )


SECTION = Section("SLURM", measure_slurm, render)
