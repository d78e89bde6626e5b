"""Merges what was measured into performance.json and writes the page and the picture from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.bench import BenchReport
from connectomics_zoo.bench.machine import Machine
from connectomics_zoo.bench.plot import draw_speed_ups
from performance.sections import SECTIONS

DRAWN = ("inference", "training")
"""Sections that are reports of `zoo bench`, which the picture shows."""

HEAD = """<!-- Written by scripts/bench from performance.json: edit that script, not this page. -->
# Performance

Times are wall times, medians of rounds in which the rows of a table take turns in one process (or in fresh ones, where
it says so). Speed-ups are over the *plain* implementation in float32 in the same run: the network's specification in
ordinary PyTorch, eager, with contiguous tensors and the same weights. *default* is what `zoo.load` gives, in inference
prepared as `zoo predict` does it. Each network is measured in a fresh process: in one that has used much memory before,
such as for training, malloc has pages at hand, the plain network runs up to three times faster, and the default one
about as fast as in any other. bfloat16 is torch's autocast. Errors are relative L2 distances to plain float32, of
outputs in inference and of all gradients together in training, with random weights. A training step is the forward
pass at all scales, the loss and the backward pass, without the optimiser, and counts as three forward passes in
GFLOP/s. Peak memory is by how much a fresh process that has network and input grows in its first step. An *aim* was
set before the work began.

On your machine, with your network:

```console
$ zoo bench mednext-S arch.base_channels=16 --size 32 --rounds 3 --no-training --no-memory
mednext-S: … parameters in training, … in inference
inference … plain … float32 … 1.00
inference … default … float32
```
"""


def update(folder: Path, found: Mapping[str, dict[str, Any]]) -> None:
    """Put `found` in the place of what was known of these sections, and write page and picture anew."""
    file = folder / "performance.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    merged = {name: {**known, **found}[name] for name in SECTIONS if name in known or name in found}
    file.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    merged = json.loads(json.dumps(merged))  # as it will be read: with lists for tuples
    reports = [_report(merged[name]) for name in DRAWN if name in merged]
    if reports:
        draw_speed_ups(reports, folder / "performance.png")
    (folder / "performance.md").write_text(page(merged, picture=bool(reports)), encoding="utf-8")


def page(data: Mapping[str, dict[str, Any]], *, picture: bool) -> str:
    """Return the page: a section for each that was measured, with its machine, versions and date."""
    parts = [HEAD]
    if picture:
        parts.append("![Speed-up over plain float32](performance.png)\n")
    for name, section in SECTIONS.items():
        if name in data:
            machine = _machine(data[name]["machine"]).describe()
            parts.append(f"## {section.title}\n\n{section.render(data[name])}\n\n{machine}.\n")
    return "\n".join(parts)


def _machine(data: dict[str, Any]) -> Machine:
    return Machine(**{**data, "instructions": tuple(data["instructions"])})


def _report(data: dict[str, Any]) -> BenchReport:
    return BenchReport.from_dict({"machine": data["machine"], "models": data["models"]})
