"""The folder of a job beside its output: what the job is, which of its blocks are done, and what is unfinished.

    OUT.job/job.json            the job: what makes it another one, and all that a worker needs to take part
    OUT.job/done/STAGE/INDEX    one small file for each block that is done
    OUT.job/volume.zarr         the blocks, on a local disk; in a bucket they are written to OUT, which says so
    OUT.job/log.jsonl           a line of JSON for what happened (on local disks)

A block counts as done when its file is there, which is written last: whatever is killed whenever, at most the block in
work is lost. The files are written through tensorstore, so that the folder may be a bucket.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tensorstore
from pydantic import Field, ValidationError

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import remove_folder
from connectomics_zoo.schema.base import Name, Node, describe_errors
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.location import job_place
from connectomics_zoo.volumes.uri import Place
from connectomics_zoo.volumes.zarr_writing import open_store, store_errors

_LOG = "log.jsonl"
_JOB = "job.json"
_UNFINISHED = "volume.zarr"

_Triple = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class Cut(Node):
    """How a box is cut into blocks, and how the output is stored."""

    start: Annotated[_Triple, Field(strict=False)]
    """First voxel (z, y, x) of the box, in voxels of the volume."""
    stop: Annotated[_Triple, Field(strict=False)]
    """One past its last voxel."""
    block: Annotated[_Triple, Field(strict=False)]
    """Edges of a block: whole shards."""
    shards: Annotated[_Triple, Field(strict=False)]
    """Edges of a shard of the output, which is a file: whole chunks."""
    chunks: Annotated[_Triple, Field(strict=False)]
    """Edges of what is compressed, and read, as a whole."""

    @property
    def grid(self) -> BlockGrid:
        """The blocks."""
        return BlockGrid(Box(self.start, self.stop), self.block)


class JobDescription(Node):
    """What a job is."""

    schema_version: Literal[1]
    """Version of this form."""
    verb: Literal["predict", "decode", "export"]
    """What is done."""
    program: str
    """What does it, and its version; another one takes no part."""
    identity: dict[str, Any]
    """By name, all that the result follows from: a job with anything else is another job."""
    request: dict[str, Any]
    """All that a worker is told."""
    cut: Cut
    """Its blocks."""
    stages: tuple[Name, ...] = Field(strict=False, min_length=1)
    """What is done with each block, one after the other."""
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Tells the job from any other that was at this place before."""


class Job:
    """The folder of a job.

    Args:
        out: the job's output, a path without a dataset, or a URI.
    """

    def __init__(self, out: Place) -> None:
        self.out = out
        self.place = job_place(out)
        self._records: tensorstore.KvStore | None = None

    @property
    def unfinished(self) -> Place:
        """Where the array of shards is that becomes the output, or of which that is made."""
        return self.out if self.folder is None else self.folder / _UNFINISHED

    @property
    def folder(self) -> Path | None:
        """The folder where it is on a local disk."""
        return self.place if isinstance(self.place, Path) else None

    def describe(self) -> JobDescription | None:
        """Return what the job is; None where there is none.

        Raises:
            OutputError: what is there is no description of a job.
        """
        if self.folder is not None and not (self.folder / _JOB).is_file():
            return None
        text = self.read(_JOB)
        if text is None:
            return None
        try:
            return JobDescription.model_validate_json(text)
        except ValidationError as error:
            raise OutputError(
                f"{self.place}/{_JOB}: describes no job that this program understands ({describe_errors(error)}): "
                "go on with the version that has begun it, or delete it and begin anew."
            ) from None

    def begin(self, description: JobDescription) -> None:
        """Write down what the job is.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(_JOB, description.model_dump_json(indent=2).encode())

    def done(self, stage: str) -> set[int]:
        """Return the blocks that are done.

        Raises:
            OutputError: the folder cannot be read.
        """
        prefix = f"done/{stage}/"
        with store_errors(self.place):
            found = self._store().list(tensorstore.KvStore.KeyRange(prefix, prefix[:-1] + "0")).result()
        names = (key.decode("utf-8", "replace").removeprefix(prefix) for key in found)
        return {int(name) for name in names if name.isdecimal()}

    def is_done(self, stage: str, index: int) -> bool:
        """Whether a block is done.

        Raises:
            OutputError: the folder cannot be read.
        """
        return self.read(f"done/{stage}/{index}") is not None

    def mark_done(self, stage: str, index: int, **numbers: float) -> None:
        """Write down that a block is done.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(f"done/{stage}/{index}", json.dumps(numbers).encode())

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where it is not there.

        Raises:
            OutputError: it cannot be read.
        """
        with store_errors(self.place):
            answer = self._store().read(name).result()
        return None if answer.state == "missing" else answer.value

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with store_errors(self.place):
            self._store().write(name, content).result()

    def log(self, event: str, **fields: object) -> None:
        """Add a line to the log, where the folder is on a local disk: several processes may do so at once."""
        if self.folder is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "host": socket.gethostname(), "pid": os.getpid(), "event": event, **fields})
        # Another share may have finished the job, and its folder is gone then.
        with (
            store_errors(self.place),
            suppress(FileNotFoundError),
            (self.folder / _LOG).open("ab", buffering=0) as file,
        ):
            file.write(f"{line}\n".encode())

    def log_tail(self, size: int) -> str:
        """Return the end of the log, at most `size` bytes of it."""
        if self.folder is None or not (self.folder / _LOG).is_file():
            return ""
        with store_errors(self.place), (self.folder / _LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode("utf-8", "replace")

    def clear(self) -> None:
        """Remove all that is known of a job, and leave the folder with its locks.

        Raises:
            OutputError: it cannot be removed.
        """
        self._records = None
        with store_errors(self.place):
            if self.folder is None:
                self._delete_records()
                return
            (self.folder / _JOB).unlink(missing_ok=True)  # first: without it, nothing else counts
            for name in ("done", _UNFINISHED):
                if (self.folder / name).exists():
                    shutil.rmtree(self.folder / name)
            (self.folder / _LOG).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder.

        Raises:
            OutputError: it cannot be removed.
        """
        self._records = None
        with store_errors(self.place):
            if self.folder is not None:
                remove_folder(self.folder)  # at once: other shares may look into it
            else:
                self._delete_records()

    def _delete_records(self) -> None:
        store = self._store()
        store.write(_JOB, None).result()  # first: without it, nothing else counts
        store.delete_range(tensorstore.KvStore.KeyRange()).result()

    def _store(self) -> tensorstore.KvStore:
        if self._records is None:
            self._records = open_store(self.place)
        return self._records


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def is_same(there: JobDescription, asked: JobDescription) -> bool:
    """Whether two jobs are the same, of which the result is that of the other."""
    return (there.verb, there.program, there.identity) == (asked.verb, asked.program, asked.identity)


def refuse_another(there: JobDescription, asked: JobDescription, *, location: str) -> None:
    """Refuse to go on with a job that is another one than what is asked for.

    Raises:
        OutputError: it is, with what differs.
    """
    if there.program != asked.program:
        raise OutputError(
            f"{location}: was begun by {there.program}, and this is {asked.program}: go on with that version, or "
            "begin anew with --overwrite."
        )
    names = [*asked.identity, *(name for name in there.identity if name not in asked.identity)]
    differing = [
        f"{name} {_short(there.identity.get(name))} there, {_short(asked.identity.get(name))} here"
        for name in names
        if there.identity.get(name) != asked.identity.get(name)
    ]
    if there.verb != asked.verb:
        differing.insert(0, f"zoo {there.verb} there, zoo {asked.verb} here")
    if differing:
        raise OutputError(
            f"{location}: is the unfinished output of another job ({'; '.join(differing)}): repeat that one to "
            "finish it, choose another name, or begin anew with --overwrite."
        )
