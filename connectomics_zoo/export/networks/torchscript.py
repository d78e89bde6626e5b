"""TorchScript by tracing: one file .pt, whose extra file `zoo.json` says where it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks.torch_export import EXTRA_FILE, provenance_json
from connectomics_zoo.fastpath import plain_only


def write(exported: Exported, output: Path) -> None:
    """Write the traced network; see `NetworkWriter`."""
    with (
        not_exportable(exported, "torchscript"),
        plain_only(),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # what a trace fixes is found by running it at other sizes
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            exported.network, torch.zeros(exported.sample_shape), check_trace=False
        )
        torch.jit.save(traced, str(output), _extra_files={EXTRA_FILE: provenance_json(exported)})


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the network as TorchScript runs it; see `NetworkWriter`."""
    return load(str(output))


def load(source: str | BinaryIO) -> Callable[[Tensor], Tensor]:
    """Return the network in a file, which may lie in memory, as TorchScript runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cast("Callable[[Tensor], Tensor]", torch.jit.load(source))  # type: ignore[no-untyped-call]
