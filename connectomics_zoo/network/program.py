"""A network as a program of torch.export, of fixed or of any legal sizes, and that program in OpenVINO."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from connectomics_zoo.errors import MissingPackageError
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import SizeRule

_TELEMETRY = "openvino_telemetry"


def trace_program(network: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """Return the program of `network`, in evaluation mode, for inputs of `shape` (B, C, …) alone."""
    with _quiet():
        return torch.export.export(network, (torch.empty(shape),), strict=False)


def trace_dynamic(
    network: nn.Module, shape: tuple[int, ...], *, sizes: SizeRule, axes: str, any_batch: bool
) -> ExportedProgram:
    """Return the program of `network`, in evaluation mode, for every batch and size that is asked for.

    Args:
        network: it takes (B, C, …).
        shape: of the input that it is traced at.
        sizes: what it must take; an axis of one size is fixed.
        axes: names of the spatial axes.
        any_batch: it must take batches of any size.

    Raises:
        ValueError: the network computes sizes with Python's numbers, so that the program would take but few of them.
    """
    dynamic: dict[int, Any] = {0: Dim("batch", min=1)} if any_batch else {}
    for index, (axis, low, step) in enumerate(zip(axes, sizes.minimum, sizes.step, strict=True)):
        if low + step > MAX_EDGE:
            continue
        # size = step * n + rest; torch.export calls these derived dimensions.
        size: Any = Dim(axis if step == 1 else f"{axis}_n", min=low // step, max=MAX_EDGE // step)
        size = size if step == 1 else step * size
        dynamic[2 + index] = size + low % step if low % step else size
    # Otherwise a bottleneck of one voxel, as the smallest inputs have, would be a case of its own.
    any_number = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with _quiet(), any_number:
        program = torch.export.export(network, (torch.empty(shape),), dynamic_shapes=(dynamic,), strict=False)
    largest = MAX_EDGE // max((step for step in sizes.step if step < MAX_EDGE), default=1)
    if dynamic and any(bounds.upper < largest for bounds in program.range_constraints.values()):
        raise ValueError("what it computes holds for a few sizes only")
    return program


def convert_to_openvino(openvino: Any, program: ExportedProgram) -> Any:
    """Return the model that the package `openvino` makes of a program."""
    level = logging.root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what it itself does
            return openvino.convert_model(program)
    finally:
        logging.root.setLevel(level)  # a conversion that fails leaves it at ERROR, and no warning is seen any more


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, networks run their plain implementation, without derivatives or warnings."""
    level = logging.root.level
    try:
        with plain_only(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what it itself does
            yield
    finally:
        logging.root.setLevel(level)


def import_openvino(*, missing: str) -> Any:
    """Return the package OpenVINO, imported without its telemetry.

    That would report each import and conversion to its makers, from forked processes that inherit the locks of open
    HDF5 files.

    Args:
        missing: what to say where it is not installed.

    Raises:
        MissingPackageError: it is not installed.
    """
    hidden = sys.modules.setdefault(_TELEMETRY, None) is None  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise MissingPackageError(missing) from None
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
