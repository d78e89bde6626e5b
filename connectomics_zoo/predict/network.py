"""The network of a run, ready to predict: device, precision, activations and the errors of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from connectomics_zoo.errors import CheckFailedError, LimitError, MissingPackageError, UnknownNameError
from connectomics_zoo.load import load
from connectomics_zoo.losses import activate
from connectomics_zoo.schema.experiment import RunSpec

Precision = Literal["float32", "float16", "bfloat16"]


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        UnknownNameError: torch knows no such device.
        MissingPackageError: this machine, or this build of torch, does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnknownNameError(f"unknown device {name!r}, give auto, cpu, cuda, cuda:1 or mps.") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise MissingPackageError(f"the device {name!r} is not available here, give auto or cpu.") from None
    return device


def choose_precision(run: RunSpec, device: torch.device) -> Precision:
    """Return the run's own mixed precision on a CUDA device that computes in it, and float32 everywhere else.

    On CPUs float32 is as fast or faster, and gives the same numbers on every machine.
    """
    if device.type != "cuda":
        return "float32"
    if run.training.precision == "16-mixed":
        return "float16"
    if run.training.precision == "bf16-mixed" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def make_forward(
    run_folder: str | Path, run: RunSpec, *, device: torch.device, precision: Precision
) -> Callable[[Tensor], Tensor]:
    """Return the function from windows (B, C, Z, Y, X) to their activated values (B, K, Z, Y, X) on the CPU.

    A 2-D network gets the windows' only section.
    """
    network = load(run_folder, device=device)
    is_flat = run.model.input.axes == "yx"
    low = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision)

    def forward(windows: Tensor) -> Tensor:
        x = windows.to(device)
        try:
            with torch.inference_mode(), torch.autocast(device.type, dtype=low, enabled=low is not None):
                logits = network(x.squeeze(2) if is_flat else x)
                values = activate(logits, task=run.task)
        except torch.OutOfMemoryError:
            raise LimitError(
                f"{device} has not enough memory for {tuple(windows.shape)} with {run.model.name}, give a smaller "
                "batch_size, or predict on the CPU."
            ) from None
        if not values.isfinite().all():
            raise CheckFailedError(
                f"{run_folder}: the network returned values that are NaN or infinite, its training has diverged: "
                "train it again with a lower learning rate."
            )
        values = values.unsqueeze(2) if is_flat else values
        return values.cpu()

    return forward
