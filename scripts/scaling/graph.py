"""What the step takes that has all fragments of a volume in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.decode.edges import Edges
from connectomics_zoo.decode.graph import group_fragments
from connectomics_zoo.schema.task import DecodeSpec
from scaling.common import Section, Settings, table
from scaling.processes import peak_bytes
from scaling.small import environment

METHODS = ("components", "agglomeration", "mutex")

SIDE = 56
"""Fragments along each edge of a cube; each has an edge to 6 of those behind it."""


def measure_graph(settings: Settings) -> dict[str, Any]:
    """Solve it by each method, in a process of its own."""
    rows = []
    for method in METHODS:
        print(f"scale: graph by {method} …", file=sys.stderr)
        code = f"from scaling.graph import solve; solve({method!r})"
        command = [sys.executable, "-c", code]
        printed = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append({"method": method, **json.loads(printed)})
    return {"rows": rows}


def solve(method: str) -> None:
    """Print what a graph of random edges takes."""
    numbers = np.arange(1, SIDE**3 + 1).reshape(SIDE, SIDE, SIDE)
    steps = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    ends = [(numbers[: SIDE - z, : SIDE - y, : SIDE - x].ravel(), numbers[z:, y:, x:].ravel()) for z, y, x in steps]
    pairs = np.concatenate([np.stack(both, axis=1) for both in ends]).astype(np.uint64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    random = np.random.default_rng(0)
    mean = random.random(len(pairs))
    edges = Edges(pairs, random.integers(1, 100, len(pairs)), mean, mean.astype(np.float32), mean.astype(np.float32))
    stride = {"stride": (1, 1, 1)} if method == "mutex" else {}
    decode = DecodeSpec(method=method, threshold=0.6, min_size=0, **stride)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_bytes(os.getpid())
    begin = time.perf_counter()
    group_fragments(edges, edges, nodes=numbers.size, decode=decode)
    seconds = time.perf_counter() - begin
    more = (peak_bytes(os.getpid()) - before) / len(pairs)
    print(json.dumps({"edges": len(pairs), "seconds": seconds, "bytes_an_edge": more}))


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        [f"`{row['method']}`", f"{row['edges'] / 1e6:.2f} M", f"{row['seconds']:.1f} s", f"{row['bytes_an_edge']:.0f}"]
        for row in data["rows"]
    ]
    return table(["method", "edges >", "time >", "bytes an edge, beside the edges >"], rows)


SECTION = Section("The step with all fragments", measure_graph, render)
