"""Where the blocks of a job are worked on, as it is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.cluster import ClusterSpec
from connectomics_zoo.schema.validation import validate

UNKNOWN_COUNT = 4
"""Workers of a cluster that is there, which only its scheduler knows."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a job, each of which a process of its own works on."""

    number: int
    """Its number, from 0."""
    count: int
    """How many there are."""

    def of(self, blocks: list[int]) -> list[int]:
        """Return the share of blocks, which lie beside each other."""
        first, stop = (len(blocks) * edge // self.count for edge in (self.number, self.number + 1))
        return blocks[first:stop]


@dataclass(frozen=True)
class Where:
    """Where a job runs: in this process by default, or in one of these ways."""

    workers: int | None = None
    """Processes on this machine."""
    cluster: ClusterSpec | None = None
    """How to get workers from SLURM."""
    scheduler: str | None = None
    """Address of the scheduler of a Dask cluster that is there."""
    shard: Shard | None = None
    """This process works on its share alone."""

    @property
    def is_here(self) -> bool:
        """Whether this process does the work itself."""
        return self.workers is None and self.cluster is None and self.scheduler is None

    @property
    def is_elsewhere(self) -> bool:
        """Whether other machines may do it."""
        return self.cluster is not None or self.scheduler is not None

    @property
    def count(self) -> int:
        """How many work on blocks at the same time, as far as it is known here."""
        if self.shard is not None:
            return self.shard.count
        if self.cluster is not None:
            return self.cluster.jobs * self.cluster.workers
        return 1 if self.is_here else self.workers or UNKNOWN_COUNT


def where_from(
    *,
    workers: int | None = None,
    cluster: str | Path | None = None,
    scheduler: str | None = None,
    shard: str | None = None,
) -> Where:
    """Return where a job runs.

    Args:
        workers: processes on this machine.
        cluster: file that describes a cluster.
        scheduler: address of a Dask scheduler, such as `tcp://10.0.0.1:8786`.
        shard: `i/n`, the share i (from 0) of n.

    Raises:
        SpecError: more than one is given, or one is not possible, or the file does not follow its schema.
    """
    asked = {"workers": workers, "cluster": cluster, "scheduler": scheduler, "shard": shard}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise SpecError(f"{' and '.join(given)} say twice where the job runs, give one of them.")
    if workers is not None and not 1 <= workers <= 1024:
        raise SpecError(f"workers {workers} is not possible, give a number from 1 to 1024.")
    if scheduler is not None and not re.fullmatch(r"(tcp|tls|ucx|ws|wss)://[^\s/]+", scheduler):
        raise SpecError(f"the scheduler {scheduler!r} is no address, write it as tcp://host:8786.")
    spec = None if cluster is None else read_cluster(Path(cluster))
    return Where(workers, spec, scheduler, None if shard is None else _parse_shard(shard))


def read_cluster(path: Path) -> ClusterSpec:
    """Return what a cluster file says.

    Raises:
        SpecError: it cannot be read, or does not follow the schema.
    """
    return validate(ClusterSpec, read_yaml(path), source=str(path))


def _parse_shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise SpecError(f"the shard {text!r} is not understood, write i/n with 0 <= i < n, as in 0/8 to 7/8.")
    return Shard(int(match[1]), int(match[2]))
