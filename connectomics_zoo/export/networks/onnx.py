"""ONNX: one file, whose metadata_props say where it comes from, each under `zoo.…`."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from connectomics_zoo.errors import LimitError
from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks.program import program_of

OPSET = 18
"""What torch's exporter writes by itself; ONNX Runtime reads it from 1.14 on."""

MAX_BYTES = 2**31 - 2**24
"""Of the weights: a file of protocol buffers holds two gigabytes."""


def write(exported: Exported, output: Path) -> None:
    """Write the model; see `NetworkWriter`."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in exported.network.state_dict().values())
    if size > MAX_BYTES:
        raise LimitError(
            f"{exported.reference} has weights of {size / 1e9:.1f} GB, and one ONNX file holds {MAX_BYTES / 1e9:.1f}, "
            "export it as torch-export or openvino."
        )
    onnx = importlib.import_module("onnx")
    with not_exportable(exported, "onnx"), _quiet():
        made: Any = torch.onnx.export(
            program_of(exported),
            (),
            input_names=["image"],
            output_names=[exported.output_name],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        model = made.model_proto
        _name_sizes(model, exported.spec.input.axes)
        onnx.helper.set_model_props(model, {f"zoo.{key}": value for key, value in exported.provenance.items()})
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, str(output))


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the exporter says nothing of what it itself does, and of packages that it does without."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _name_sizes(model: Any, axes: str) -> None:
    """Call the symbols of sizes by their axes: `16*s58` of y becomes `16*y_n`, and `s40` of the batch `batch`."""
    image = model.graph.input[0].type.tensor_type.shape.dim
    names: dict[str, str] = {}
    for dim, axis in zip((image[0], *image[2:]), ("batch", *axes), strict=True):
        symbols = re.findall(r"\bs\d+\b", dim.dim_param)
        names |= {symbol: axis if symbol == dim.dim_param else f"{axis}_n" for symbol in symbols}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda match: names.get(match[0], match[0]), dim.dim_param)


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the model as ONNX Runtime runs it; see `NetworkWriter`."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what fails at some size is tried otherwise
    session = runtime.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run
