"""ONNX: one file, whose metadata_props say where it comes from, each under `zoo.…`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from connectomics_zoo.errors import LimitError
from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks.program import program_of

OPSET = 18
"""What torch's exporter writes by itself, and every ONNX Runtime since 1.14 reads."""

MAX_BYTES = 2**31 - 2**20
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
    with not_exportable(exported, "onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it itself does
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
        onnx.helper.set_model_props(model, {f"zoo.{key}": value for key, value in exported.provenance.items()})
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, str(output))


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the model as ONNX Runtime runs it; see `NetworkWriter`."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run
