"""Fetching one small file from a Hub on loopback, in this process or in another."""

from __future__ import annotations

import os
import subprocess
import sys

from connectomics_zoo.hub import fetch

CONTENT = bytes(range(256)) * 1200


FILE = "model.safetensors"


LIMIT = 10**6


def get(revision, *, file=FILE, repo="org/name", **options):
    return fetch(repo, revision, file, max_bytes=options.pop("max_bytes", LIMIT), **options)


def start_fetch(hub_server, revision, home, *, code=None, **settings):
    """Start a program that fetches the file and prints its length, or another `code`."""
    environment = {**os.environ, **hub_server.environment(home), **settings}
    command = [sys.executable, "-c", code or FETCH, revision]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


FETCH = f"""
import sys
from connectomics_zoo.hub import fetch
path = fetch("org/name", sys.argv[1], "{FILE}", max_bytes={LIMIT})
print(len(path.read_bytes()))
"""

EIGHT_FETCHES = f"""
import os, sys
import huggingface_hub.file_download
from connectomics_zoo.hub import fetch
children = []
for _ in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        path = fetch("org/name", sys.argv[1], "{FILE}", max_bytes={LIMIT})
        os.write(1, b"%d\\n" % len(path.read_bytes()))  # the line at once, between those of the others
        sys.exit()
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
"""The same from eight processes at once, each of which prints the length."""
