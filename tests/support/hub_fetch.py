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


def start_fetch(hub_server, revision, home, **settings):
    environment = {**os.environ, **hub_server.environment(home), **settings}
    command = [sys.executable, "-c", FETCH, revision]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


FETCH = f"""
import sys
from connectomics_zoo.hub import fetch
path = fetch("org/name", sys.argv[1], "{FILE}", max_bytes={LIMIT})
print(len(path.read_bytes()))
"""
