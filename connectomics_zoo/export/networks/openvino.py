"""OpenVINO's own format: a folder of model.xml and model.bin, whose runtime information says where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from connectomics_zoo.export.exported import Exported, not_exportable
from connectomics_zoo.export.networks.program import program_of
from connectomics_zoo.network.program import convert_to_openvino, import_openvino

MODEL_FILE = "model.xml"
"""Beside it lies model.bin."""

_MISSING = "the format openvino needs the package openvino, run `pip install 'connectomics-zoo[export]'`."


def write(exported: Exported, output: Path) -> None:
    """Write the model; see `NetworkWriter`."""
    openvino = import_openvino(missing=_MISSING)
    with not_exportable(exported, "openvino"):
        model = convert_to_openvino(openvino, program_of(exported))
        model.inputs[0].get_tensor().set_names({"image"})
        model.outputs[0].get_tensor().set_names({exported.output_name})
        for key, value in exported.provenance.items():
            model.set_rt_info(value, ["zoo", key])
        output.mkdir()
        openvino.save_model(model, str(output / MODEL_FILE), compress_to_fp16=False)


def reader(output: Path) -> Callable[[Tensor], Tensor]:
    """Return the model as OpenVINO runs it on the CPU, in float32; see `NetworkWriter`."""
    openvino = import_openvino(missing=_MISSING)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(output / MODEL_FILE), "CPU", settings)

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(compiled([image.numpy()])[0].copy())

    return run
