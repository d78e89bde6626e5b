"""What is compared: a network's plain and its default implementation, in float32 and bfloat16, and one step of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import InputSizeError, LimitError, MissingPackageError
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.network.acceleration import prepare_inference
from connectomics_zoo.network.hardware import cpu_has_bfloat16, cuda_has_bfloat16
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.weights.load import load

Implementation = Literal["plain", "default"]
"""`plain`: the specification of the network, eager, contiguous; `default`: what `load` gives, in inference prepared as
`predict` does it."""

BenchPrecision = Literal["float32", "bfloat16"]
"""`bfloat16` is torch's autocast."""

Mode = Literal["inference", "training"]
"""`inference`: a forward pass in evaluation, under `torch.inference_mode`. `training`: a forward pass at all scales,
a loss (the mean square of each output, with the declared weights) and the backward pass; no optimiser."""

MODES: tuple[Mode, ...] = ("inference", "training")


class Variant(NamedTuple):
    """How a network is run."""

    implementation: Implementation
    precision: BenchPrecision


BASELINE = Variant("plain", "float32")
"""What everything is compared with."""


def variants(precisions: tuple[BenchPrecision, ...]) -> tuple[Variant, ...]:
    """Return the variants in `precisions`, the baseline first."""
    beside = [
        variant for precision in precisions for variant in (Variant("plain", precision), Variant("default", precision))
    ]
    return tuple(dict.fromkeys([BASELINE, *beside]))


def supported_precisions(device: torch.device) -> tuple[BenchPrecision, ...]:
    """Return the precisions that `device` computes in by itself."""
    on_cpu, on_cuda = device.type == "cpu", device.type == "cuda"
    has_bfloat16 = (on_cpu and cpu_has_bfloat16()) or (on_cuda and cuda_has_bfloat16())
    return ("float32", "bfloat16") if has_bfloat16 else ("float32",)


def check_precisions(precisions: tuple[BenchPrecision, ...], device: torch.device) -> None:
    """Refuse bfloat16 where torch cannot even emulate it.

    Raises:
        MissingPackageError: it cannot.
    """
    if "bfloat16" in precisions and not torch.amp.is_autocast_available(device.type):
        raise MissingPackageError(f"the device {str(device)!r} has no bfloat16 autocast, measure float32 alone.")


def input_shape(spec: ModelSpec, size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the input (B, C, Z, Y, X) of `spec` at `size`, raised to the next legal size.

    Args:
        spec: the model.
        size: voxels along each axis, or one number for all axes.

    Raises:
        InputSizeError: there are neither one nor as many numbers as axes.
    """
    axes = spec.input.axes
    if len(size) not in (1, len(axes)):
        raise InputSizeError(
            f"the size {','.join(map(str, size))} has {len(size)} numbers and {spec.name} has the axes "
            f"{', '.join(axes)}: give 1 or {len(axes)} numbers."
        )
    whole = size * len(axes) if len(size) == 1 else size
    return (1, spec.input.channels, *spec.input.size.round_up(whole))


@contextmanager
def implementation(kind: Implementation) -> Iterator[None]:
    """Within it networks are built and run as `kind` says."""
    if kind == "default":
        yield
        return
    with plain_only():
        yield


def make_network(spec: ModelSpec, kind: Implementation, mode: Mode, *, device: torch.device) -> nn.Module:
    """Return the network of `spec`, ready for `mode`, with the same random weights for every `kind`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with implementation("plain"):
            network = load(spec, device=device)
        if kind == "plain":
            return network.train(mode == "training")
        default = load(spec, device=device)
    default.load_state_dict(network.state_dict())
    return default.train() if mode == "training" else prepare_inference(default, device=device)


def make_input(shape: tuple[int, ...], *, device: torch.device) -> Tensor:
    """Return the same random input of `shape` each time.

    Raises:
        LimitError: there is no memory for it.
    """
    try:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    except RuntimeError:  # the CPU's allocator has no type of its own for it
        raise LimitError(f"there is no memory for an input of {shape}, give a smaller size.") from None


def infer(network: nn.Module, x: Tensor, variant: Variant) -> Tensor:
    """Return the output (B, K, Z, Y, X) for the input `x` (B, C, Z, Y, X); `network` is in evaluation mode."""
    with implementation(variant.implementation), torch.inference_mode(), _autocast(variant.precision, x.device):
        output: Tensor = network(x)
    synchronize(x.device)
    return output


def train_step(network: nn.Module, x: Tensor, variant: Variant, *, weights: tuple[float, ...]) -> None:
    """Leave the gradients of one training step at the parameters; `network` is in training mode.

    Args:
        network: returns one tensor, or a dict with one for each of `weights`.
        x: the input (B, C, Z, Y, X).
        variant: how it is run.
        weights: of the outputs' losses.
    """
    network.zero_grad(set_to_none=True)
    with implementation(variant.implementation):
        with _autocast(variant.precision, x.device):
            outputs: Tensor | dict[str, Tensor] = network(x)
        values = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
        losses = [weight * value.float().square().mean() for weight, value in zip(weights, values, strict=False)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    synchronize(x.device)


def gradients(network: nn.Module) -> list[Tensor]:
    """Return the gradients in the order of the parameters, zeros where a parameter has none."""
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in network.parameters()
    ]


def loss_weights(spec: ModelSpec) -> tuple[float, ...]:
    """Return the declared weights of the outputs' losses."""
    return tuple(output.loss_weight for output in spec.outputs)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _autocast(precision: BenchPrecision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
