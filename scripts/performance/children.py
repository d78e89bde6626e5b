"""Is a fresh process that loads a network and prints how long that took: `python children.py zoo|plain FOLDER`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

PICKLE = "weights.pt"
"""The same weights for `torch.load`, beside the run folder's own file."""


def main() -> None:
    """Time imports and loading after torch is imported, then touch all weights."""
    how, folder = sys.argv[1:]
    begin = time.perf_counter()
    spec, clear, status = _import(folder)
    imported = time.perf_counter()
    clear()
    before = status("VmRSS")
    loading = time.perf_counter()
    network = _load_with_zoo(folder) if how == "zoo" else _load_plainly(spec, folder)
    loaded = time.perf_counter()
    peak = status("VmHWM") - before
    total = sum(float(tensor.sum()) for tensor in network.state_dict().values())
    touched = time.perf_counter()
    assert total == total, "the weights are NaN"
    answer = {
        "import_seconds": imported - begin,
        "seconds": loaded - loading,
        "touched_seconds": touched - loading,
        "peak_bytes": peak,
        "touched_peak_bytes": status("VmHWM") - before,
    }
    print(json.dumps(answer))


def _import(folder: str) -> Any:
    """Import all that either way needs, and read the spec once."""
    import zoo.builders.nets.mednext  # noqa: F401  (a builder imports it when it builds)
    from connectomics_zoo.bench.memory import read_status, reset_peak
    from connectomics_zoo.specs.lookup import get_spec
    from connectomics_zoo.weights.load import load  # noqa: F401

    return get_spec(folder), lambda: reset_peak(torch.device("cpu")), read_status


def _load_with_zoo(folder: str) -> Any:
    from connectomics_zoo.weights.load import load

    return load(folder)


def _load_plainly(spec: Any, folder: str) -> Any:
    from connectomics_zoo.network.build import build

    network = build(spec, deep_supervision=True)
    network.load_state_dict(torch.load(Path(folder) / PICKLE))
    return network.eval()


if __name__ == "__main__":
    main()
