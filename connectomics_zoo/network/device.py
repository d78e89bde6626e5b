"""Where a network predicts and in which arithmetic, and the errors of both."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from connectomics_zoo.errors import (
    MissingPackageError,
    SpecError,
    UnknownNameError,
)
from connectomics_zoo.network.hardware import cpu_has_bfloat16, cuda_has_bfloat16
from connectomics_zoo.schema.experiment import RunSpec

Engine = Literal["torch", "openvino"]
"""What computes the network."""

Precision = Literal["float32", "bfloat16", "float16"]
AskedPrecision = Literal["auto", "float32", "bfloat16", "float16"]

_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("float32", "bfloat16"),
    "cuda": ("float32", "bfloat16", "float16"),
}

_log = logging.getLogger(__name__)


def choose_device(name: str, *, engine: Engine) -> torch.device:
    """Return the device called `name`; `auto` is the first CUDA device where the engine finds one, else the CPU.

    Raises:
        UnknownNameError: torch knows no such device.
        SpecError: the engine does not run there.
        MissingPackageError: this machine, or this build of torch, does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if engine == "torch" and torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownNameError(f"unknown device {name!r}, give auto, cpu, cuda, cuda:1 or mps.") from None
    if engine == "openvino" and device.type != "cpu":
        raise SpecError(f"the engine openvino computes on the CPU, not on {name}: give device cpu, or engine torch.")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise MissingPackageError(f"the device {name!r} is not available here, give auto or cpu.") from None
    return device


def prediction_precision(asked: AskedPrecision, *, run: RunSpec, device: torch.device) -> Precision:
    """Return the precision asked for; `auto` is the run's own on a CUDA device that computes in it, else float32.

    On the CPU `auto` stays with float32. bfloat16 is faster where the CPU has it, and masks hardly differ, but the
    scores of objects do (`docs/performance.md`), and AMX and AVX512_BF16 round differently.

    Raises:
        SpecError: the device does not compute in it.
    """
    if asked == "auto":
        return _own_precision(run, device)
    possible = _PRECISIONS.get(device.type, ("float32",))
    if asked not in possible or (asked == "bfloat16" and device.type == "cuda" and not cuda_has_bfloat16()):
        others = " or ".join(["auto", *(name for name in possible if name != asked)])
        raise SpecError(f"precision {asked} is not possible on {device}, give {others}.")
    if asked == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        _log.warning("this CPU has no bfloat16 arithmetic (AVX512_BF16, AMX): float32 would be faster")
    return asked


def _own_precision(run: RunSpec, device: torch.device) -> Precision:
    if device.type == "cuda" and run.training.precision == "16-mixed":
        return "float16"
    if device.type == "cuda" and run.training.precision == "bf16-mixed" and cuda_has_bfloat16():
        return "bfloat16"
    return "float32"
