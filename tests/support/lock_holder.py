"""Processes that take the lock of a run folder when they are told to, and locks of processes that are not there."""

from __future__ import annotations

import json
import subprocess
import sys

from connectomics_zoo.runs.folder import LOCK_FILE
from connectomics_zoo.runs.process import this_process

_TAKE = """
import sys
from pathlib import Path
from connectomics_zoo.errors import OutputError
from connectomics_zoo.runs.lock import lock_folder
print("ready", flush=True)
for line in sys.stdin:
    try:
        with lock_folder(Path(line.strip())):
            print("holds", flush=True)
            sys.stdin.readline()
        print("released", flush=True)
    except OutputError as error:
        print(error, flush=True)
        sys.stdin.readline()
        print("gave up", flush=True)
"""


class LockHolder:
    """A process that tries to take a lock, says what came of it, and keeps it until it is told to go on."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def send(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def write_lock(folder, *, name=LOCK_FILE, **changes):
    """Write the lock of a process that is this one but for `changes`."""
    process = {**this_process().model_dump(), **changes}
    content = {"process": process, "since": "2026-01-02 03:04:05+00:00", "token": "another"}
    (folder / name).write_text(json.dumps(content))


GONE = {"started": "long ago"}
"""What makes it the lock of a process that is gone, and whose number another one has now."""
