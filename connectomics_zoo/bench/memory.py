"""Peak memory of one step of a network, each measured in a process of its own."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from connectomics_zoo.bench.variants import (
    Mode,
    Variant,
    infer,
    loss_weights,
    make_input,
    make_network,
    train_step,
)
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What resets the peak of a process's resident memory when it is written to `clear_refs`: see proc(5)."""

_log = logging.getLogger(__name__)


def peak_memory(
    spec: ModelSpec, shape: tuple[int, ...], variant: Variant, mode: Mode, *, device: torch.device, threads: int
) -> int | None:
    """Return by how many bytes the memory of a fresh process that has network and input grows in its first step.

    On the CPU it is resident memory, on CUDA what torch's allocator hands out, of gradients, too. None where it cannot
    be measured: on other accelerators, on systems other than Linux, and where the step fails.

    Args:
        spec: the network.
        shape: of the input, (B, C, Z, Y, X).
        variant: how it is run.
        mode: which step.
        device: where.
        threads: of torch.
    """
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and not _STATUS.is_file()):
        return None
    request = {
        "spec": spec.model_dump(mode="json"),
        "shape": shape,
        "variant": variant,
        "mode": mode,
        "device": str(device),
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-c", "from connectomics_zoo.bench.memory import print_growth; print_growth()"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"its process ended with {done.returncode}"]
        _log.warning("the peak memory of %s, %s, was not measured: %s", spec.name, mode, reason[0])
        return None
    growth: int | None = json.loads(done.stdout.splitlines()[-1])
    return growth


def print_growth() -> None:
    """Be the fresh process: read a request from stdin, do its step and print by how much the memory grew."""
    request = json.load(sys.stdin)
    print(json.dumps(_growth(request)))


def _growth(request: dict[str, Any]) -> int | None:
    torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    variant = Variant(*request["variant"])
    spec = validate(ModelSpec, request["spec"], source="the request")
    network = make_network(spec, variant.implementation, request["mode"], device=device)
    x = make_input(tuple(request["shape"]), device=device)
    gc.collect()
    before = reset_peak(device)
    if request["mode"] == "inference":
        infer(network, x, variant)
    else:
        train_step(network, x, variant, weights=loss_weights(spec))
    return None if before is None else _peak(device) - before


def reset_peak(device: torch.device) -> int | None:
    """Let the peak begin anew and return the memory in use, in bytes; None where the system refuses."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return None
    return read_status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else read_status("VmHWM")


def read_status(name: str) -> int:
    """Return an entry of this process's memory, in bytes: `VmRSS` is what it has, `VmHWM` the peak of it."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
