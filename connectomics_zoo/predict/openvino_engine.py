"""A network converted to OpenVINO, which is faster than torch for some networks on some CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import SpecError, ZooError
from connectomics_zoo.network import program
from connectomics_zoo.network.device import Precision


def convert_network(
    network: nn.Module, *, shape: tuple[int, ...], precision: Precision, name: str
) -> Callable[[Tensor], Tensor]:
    """Return the function from windows (B, C, …) to logits (B, K, …) that OpenVINO makes of a network on the CPU.

    The conversion runs nothing: it takes seconds, whatever the window.

    Args:
        network: in evaluation mode.
        shape: (1, C, Z, Y, X) or (1, C, Y, X) of a window; each is computed on its own.
        precision: float32 or bfloat16.
        name: what errors call the network.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        SpecError: OpenVINO does not compute in the precision on this CPU.
        ZooError: the network has an operation that cannot be converted.
    """
    openvino = import_openvino()
    core = openvino.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SpecError("OpenVINO does not compute in bfloat16 on this CPU, give precision float32.")
    try:
        model = _converted(openvino, network, shape=shape)
        compiled = core.compile_model(model, "CPU", _settings(precision))
    except Exception as error:  # OpenVINO and torch.export raise many types
        raise ZooError(
            f"{name} cannot be converted for OpenVINO ({_reason(error)}), predict it with engine torch."
        ) from error
    request = compiled.create_infer_request()

    def compute(windows: Tensor) -> Tensor:
        logits = torch.empty(len(windows), *compiled.output(0).shape[1:])
        for index in range(len(windows)):
            request.infer([windows[index : index + 1].contiguous().numpy()], share_inputs=True)
            logits[index] = torch.from_numpy(request.get_output_tensor(0).data)[0]
        return logits

    return compute


def import_openvino() -> Any:
    """Return the package OpenVINO, imported without its telemetry.

    Raises:
        MissingPackageError: it is not installed.
    """
    return program.import_openvino(
        missing="the engine openvino is not installed, run `pip install 'connectomics-zoo[openvino]'`."
    )


def _converted(openvino: Any, network: nn.Module, *, shape: tuple[int, ...]) -> Any:
    model = program.convert_to_openvino(openvino, program.trace_program(network, shape))
    model.reshape(list(shape))
    return model


def _settings(precision: Precision) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",  # all threads work on one window
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    }


def _reason(error: Exception) -> str:
    """Return the first line of what `error` says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
