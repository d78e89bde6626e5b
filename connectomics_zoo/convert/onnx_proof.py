"""Runs an ONNX file and the network that its tensors were put into on the same random image, and compares both."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo.convert.onnx_file import OnnxFile, import_onnx
from connectomics_zoo.errors import WeightsError
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.schema.builder import image_pooling
from connectomics_zoo.schema.model import ModelSpec

OF_SPREAD = 1e-3
"""How far two values may be apart, in standard deviations of all values: arithmetic in float32 is nearer by far."""

OF_LARGEST = 1e-5
"""How much farther, as a part of the largest value."""

HALF = 30.0
"""How many times as far in half precision."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softmax": lambda logits: logits.softmax(dim=1),
}
"""What may stand behind the logits of a graph; a network here gives these alone."""

_COARSE = (torch.float16, torch.bfloat16)


def prove(network: nn.Module, spec: ModelSpec, file: OnnxFile) -> str:
    """Return what was compared, in words, if `network` does what the file does.

    Raises:
        WeightsError: it does not.
    """
    pooling = image_pooling(spec.builder, spec.arch)
    seen = _image_of(spec, file, pooling)
    image = seen
    if max(pooling) > 1:  # equal voxels, whose mean is exactly the file's
        image = F.interpolate(seen, scale_factor=list(map(float, pooling)))
    if not spec.input.size.allows(tuple(image.shape[2:])):
        raise WeightsError(
            f"{file.path}: takes an image of {list(seen.shape[2:])} voxels alone, which {spec.name} does not accept "
            f"(legal are {spec.input.size.describe()}): export it with one that it does, or with dynamic sizes."
        )
    runtime, given = _run(file, seen)
    last = next((node.op for node in reversed(file.nodes) if file.output.name in node.outputs), "")
    with torch.no_grad(), plain_only():
        found = network.eval()(image)
    if last in _ACTIVATIONS:
        found = _ACTIVATIONS[last](found)
    size = f"an image of {' x '.join(map(str, seen.shape[2:]))} voxels"
    if found.shape != given.shape:
        raise WeightsError(
            f"{file.path}: gives {list(given.shape)} of {size} and {spec.name} {list(found.shape)}, so that it is "
            "another network: give its spec by --model."
        )
    spread = float(given.std() if given.numel() > 1 else given.abs())
    if spread == 0:
        raise WeightsError(
            f"{file.path}: gives {float(given.flatten()[0]):.3g} wherever one looks in {size}, so that nothing tells "
            "whether its network is another one: convert a checkpoint of it instead."
        )
    apart = float((found - given).abs().max())
    coarse = any(tensor.dtype in _COARSE for tensor in file.tensors.values())
    most = (HALF if coarse else 1) * (OF_SPREAD * spread + OF_LARGEST * float(given.abs().max()))
    if not apart <= most:
        raise WeightsError(
            f"{file.path}: {spec.name} has tensors of these shapes, and gives other numbers of {size} (up to "
            f"{apart:.2g} apart, {most:.2g} are allowed), so that it is another network: give its spec by --model."
        )
    after = f", after the file's {last.lower()}" if last in _ACTIVATIONS else ""
    return f"{apart:.1e} apart at most from what {runtime} gives of {size}{after} ({most:.1e} are allowed)"


def _image_of(spec: ModelSpec, file: OnnxFile, pooling: tuple[int, ...]) -> Tensor:
    """Return a random image (B, C, Z, Y, X) of the size that the file fixes, else of the smallest that is legal."""
    rank = 2 + len(spec.input.axes)
    if len(file.input.shape) != rank:
        raise WeightsError(
            f"{file.path}: takes a tensor of {len(file.input.shape)} axes and {spec.name} one of {rank}: give the spec "
            "of its network by --model."
        )
    smallest = [low // factor for low, factor in zip(spec.input.size.minimum, pooling, strict=True)]
    usual = (1, spec.input.channels, *smallest)
    shape = [fixed or edge for fixed, edge in zip(file.input.shape, usual, strict=True)]
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _run(file: OnnxFile, image: Tensor) -> tuple[str, Tensor]:
    """Return what the file gives of an image, by ONNX Runtime where it is installed, and by whom it was computed."""
    has_runtime = importlib.util.find_spec("onnxruntime") is not None
    wanted = image.half() if file.half_input else image
    try:
        run = _by_runtime(file) if has_runtime else _by_reference(file)
        given = torch.from_numpy(run({file.input.name: wanted.numpy()})).float()
    except Exception as error:  # both raise many types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{file.path}: does not run ({reason[0][:200].rstrip('.')}), export it anew.") from None
    return ("ONNX Runtime" if has_runtime else "onnx's reference"), given


def _by_runtime(file: OnnxFile) -> Callable[[dict[str, Any]], Any]:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def _by_reference(file: OnnxFile) -> Callable[[dict[str, Any]], Any]:
    import_onnx()
    reference: Any = importlib.import_module("onnx.reference")
    evaluator = reference.ReferenceEvaluator(str(file.path))
    return lambda inputs: evaluator.run(None, inputs)[0]
