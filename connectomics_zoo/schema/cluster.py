"""`ClusterSpec`: how to get workers from SLURM, stored once for a lab."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from connectomics_zoo.schema.base import Node

_WALLTIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)")

SHORTEST_WALLTIME_S = 60
"""A worker takes a while to start; SLURM itself counts in minutes."""


def walltime_seconds(text: str) -> int:
    """Return the seconds of `HH:MM:SS` or `D-HH:MM:SS`."""
    match = _WALLTIME.fullmatch(text)
    assert match is not None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def walltime_text(seconds: float) -> str:
    """Return seconds, rounded up to whole minutes, as `HH:MM:SS`."""
    minutes = -(-int(seconds) // 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:00"


def _known_walltime(text: str) -> str:
    if not _WALLTIME.fullmatch(text) or walltime_seconds(text) < SHORTEST_WALLTIME_S:
        raise PydanticCustomError("walltime", "must be HH:MM:SS or D-HH:MM:SS, a minute at least, in quotes")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise PydanticCustomError("line", "must be one line, make a list of several")
    return text


Word = Annotated[str, StringConstraints(pattern=r"^[^\s'\"\\$`;&|<>()]{1,200}$")]
"""What stands in a directive: without blanks, quotes and what a shell would read otherwise."""

_Line = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_one_line)]

_Directive = Annotated[str, StringConstraints(pattern=r"^-[^\n\r]{1,400}$")]


class ClusterSpec(Node):
    """A cluster file: `zoo predict --cluster FILE.yaml`, `zoo plan --script FILE --cluster FILE.yaml`."""

    schema_version: Literal[1]
    """Version of this form."""
    kind: Literal["slurm"]
    """Who gives the workers."""
    jobs: Annotated[int, Field(ge=1, le=10_000)]
    """How many jobs are asked for; always as many, none is given back before the end."""
    cores: Annotated[int, Field(ge=1, le=4096)]
    """Cores of a job."""
    memory: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,6} ?[KMGT]B$")]
    """Memory of a job, such as 16GB."""
    walltime: Annotated[str, AfterValidator(_known_walltime)]
    """Time of a job, such as "04:00:00" or "1-00:00:00"; a job that reaches it is replaced."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of a job, which has a worker for each; without any it has one worker."""
    partition: Word | None = None
    """Partition, by default the cluster's own."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    constraint: Annotated[str, StringConstraints(pattern=r"^[^\s'\"\\$`;<>]{1,200}$")] | None = None
    """Features that nodes must have, such as a100|h100."""
    extra_directives: Annotated[tuple[_Directive, ...], Strict(False), Field(max_length=50)] = ()
    """More directives as they stand behind #SBATCH, such as --exclude=node7."""
    environment: Annotated[tuple[_Line, ...], Strict(False), Field(max_length=100)] = ()
    """Lines of bash before the worker starts, such as module load cuda."""
    python: Word | None = None
    """The Python of a job, by default that of the command; it must have the same version of this package."""
    interface: Word | None = None
    """Network interface by which jobs reach the command, such as ib0; by default the machine's main one."""
    start_timeout_s: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 1800
    """Seconds after which it is an error that no worker has started."""
    log_folder: Annotated[str, StringConstraints(pattern=r"^[^\s'\"\\$`;&|<>()%]{1,400}$")] = "zoo-slurm"
    """Folder for what jobs print."""

    @model_validator(mode="after")
    def _enough_cores(self) -> ClusterSpec:
        if self.cores < self.gpus:
            raise ValueError(f"{self.cores} cores are too few for {self.gpus} GPUs, give one for each at least")
        return self

    @property
    def workers(self) -> int:
        """Workers of a job."""
        return max(1, self.gpus)

    @property
    def threads(self) -> int:
        """Threads of a worker."""
        return self.cores // self.workers

    @property
    def memory_mb(self) -> int:
        """The memory of a job in units of 2^20 bytes, rounded up."""
        count, unit = int(self.memory[:-2]), self.memory[-2]
        size: int = 1000 ** ("KMGT".index(unit) + 1)
        return -(-count * size // 2**20)

    @property
    def walltime_s(self) -> int:
        """The time of a job in seconds."""
        return walltime_seconds(self.walltime)
