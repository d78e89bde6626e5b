"""From a spec to a network, and from a network to the numbers that a spec declares."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from connectomics_zoo.errors import InputSizeError, ZooError
from connectomics_zoo.network.convolution_guard import guard_convolutions
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.schema.builder import build_with, channel_vectors
from connectomics_zoo.schema.model import Expectation, Flops, ModelSpec, ParameterCounts, Probe, ProbeOutput

PROBE_VALUES = 5
"""Elements of an output that a probe states."""

FLOPS_EDGE = 64
"""Edge of the input, in voxels, that FLOPs are counted at (or the next legal size)."""


class InputGuard:
    """Forward pre-hook that refuses what the spec does not allow, with our error instead of a convolution's."""

    def __init__(self, spec: ModelSpec) -> None:
        self.name = spec.name
        self.channels = spec.input.channels
        self.axes = spec.input.axes
        self.rule = spec.input.size

    def __call__(self, network: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Check the first argument, a tensor (B, C, Z, Y, X), however it was passed."""
        given = (*args, *keywords.values())
        if not given:
            return  # torch's own error names the argument that is missing
        shape = tuple(given[0].shape)
        if len(shape) != 2 + len(self.axes):
            layout = "(B, C, " + ", ".join(self.axes.upper()) + ")"
            raise InputSizeError(f"{self.name} takes a tensor {layout} and got one of shape {shape}, reshape it.")
        if shape[1] != self.channels:
            raise InputSizeError(
                f"{self.name} takes {self.channels} input channel(s) and got {shape[1]} in {shape}, "
                f"load it with in_channels={shape[1]}."
            )
        if not self.rule.allows(shape[2:]):
            nearest = self.rule.round_up(shape[2:])
            smaller = any(legal < given for legal, given in zip(nearest, shape[2:], strict=True))
            raise InputSizeError(
                f"{self.name} does not accept the spatial size {shape[2:]}, legal are {self.rule.describe()} "
                f"voxels along {', '.join(self.axes)}: {'resize' if smaller else 'pad'} it to {nearest}."
            )


_FILLS: frozenset[Callable[..., Any]] = frozenset(
    {
        # Of torch.nn.init, those that a mode sees; the others come down to methods of the tensor.
        nn.init.constant_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        Tensor.fill_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.zero_,
        # MONAI makes a truncated normal distribution from a uniform one in these steps.
        Tensor.add_,
        Tensor.clamp_,
        Tensor.erfinv_,
        Tensor.mul_,
    }
)


_MOST_SKIPS = 20
"""Fills of one parameter that are skipped; a builder who draws until the numbers suit it must get numbers."""


class _NoInitialisation(TorchFunctionMode):
    """Within it, filling a parameter does nothing, which is most of the time that building takes.

    Everything else is computed as ever, buffers too. It holds for this thread alone, so that a network which another
    thread builds at the same time is initialised.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skips: Counter[int] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, nn.Parameter) and self._skips[id(filled)] < _MOST_SKIPS:
                self._skips[id(filled)] += 1
                return filled
        return func(*args, **kwargs)


def build(spec: ModelSpec, *, deep_supervision: bool, initialise: bool = True) -> nn.Module:
    """Return the network of `spec`, in training mode on the default device.

    Args:
        spec: a complete spec.
        deep_supervision: give it the heads at all scales.
        initialise: fill the parameters; without, they hold what the memory held, for a caller who overwrites them all.
    """
    with nullcontext() if initialise else _NoInitialisation():
        network = build_with(
            spec.builder,
            spec.arch,
            in_channels=spec.input.channels,
            out_channels=spec.outputs[0].channels,
            deep_supervision=deep_supervision,
        )
    guard_convolutions(network)
    scripted: Any = network
    scripted.__prepare_scriptable__ = partial(_refuse_scripting, spec.name)
    network.register_forward_pre_hook(InputGuard(spec), with_kwargs=True)
    return network


def _refuse_scripting(name: str) -> NoReturn:
    """Say at once, in the hook that TorchScript has for it, what its compiler would say in its own words."""
    raise ZooError(
        f"{name} cannot be compiled by torch.jit.script: use torch.jit.trace(network, x) with an x of the size that it "
        "will get, or torch.export.export(network, (x,))."
    )


def build_meta(spec: ModelSpec, *, deep_supervision: bool) -> nn.Module:
    """Return the network on the meta device: shapes without memory."""
    with torch.device("meta"):
        return build(spec, deep_supervision=deep_supervision, initialise=False)


def fingerprint(network: nn.Module) -> str:
    """Return the digest over the sorted (key, shape, dtype) of the state dict."""
    lines = [
        f"{key} {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in sorted(network.state_dict().items())
    ]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameter elements, inert ones included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_buffers(network: nn.Module) -> int:
    """Return the number of elements in the buffers that the state dict holds."""
    names = set(network.state_dict())
    return sum(buffer.numel() for name, buffer in network.named_buffers() if name in names)


def count_flops(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the operations of one forward pass in evaluation (a multiply-add is two), on the network's device."""
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    network.eval()
    with counter, torch.no_grad():
        network(torch.empty(input_shape, device=device))
    return int(counter.get_total_flops())


def flops_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return the input shape (B, C, Z, Y, X) that FLOPs of `spec` are stated at."""
    size = spec.input.size.round_up((FLOPS_EDGE,) * len(spec.input.axes))
    return (1, spec.input.channels, *size)


def probe_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return the input shape (B, C, Z, Y, X) of the probe: the smallest legal size."""
    return (1, spec.input.channels, *spec.input.size.minimum)


def run_probe(spec: ModelSpec, input_shape: tuple[int, ...]) -> Probe:
    """Return what the network of `spec` computes on the CPU for name-seeded weights and input.

    The first output is that of evaluation, in float32; the others are those of training, in float64: a norm over the
    few voxels of a coarse scale makes of a rounding error one that differs between processors by more than any
    tolerance.
    """
    network = build(spec, deep_supervision=True)
    seed_parameters(network, channel_vectors=channel_vectors(spec.builder))
    # Evaluation comes first: a pass in training moves running statistics.
    probe = probe_network(network, spec, input_shape)
    if len(spec.outputs) == 1:
        return probe
    network.double().train()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()  # what it drops is random
    with torch.no_grad():
        scales = network(seeded_input(input_shape).double())
    return Probe(
        input_shape=input_shape, outputs={name: _summarise(value) for name, value in scales.items()} | probe.outputs
    )


def probe_network(network: nn.Module, spec: ModelSpec, input_shape: tuple[int, ...]) -> Probe:
    """Return what `network`, with the weights that it has, computes in evaluation for the name-seeded input."""
    with torch.no_grad():
        output = network.eval()(seeded_input(input_shape))
    return Probe(input_shape=input_shape, outputs={spec.outputs[0].name: _summarise(output)})


def _summarise(output: Tensor) -> ProbeOutput:
    flat = output.double().flatten()
    last = flat.numel() - 1
    positions = [round(index * last / (PROBE_VALUES - 1)) for index in range(PROBE_VALUES)]
    return ProbeOutput(
        rms=_round(flat.square().mean().sqrt().item()),
        values=tuple(_round(flat[position].item()) for position in positions),
    )


def _round(value: float) -> float:
    """Six significant digits: more than the arithmetic of different machines agrees on."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.6g}")


def measure_static_expectation(spec: ModelSpec) -> Expectation:
    """Return counts and fingerprint of `spec`, from builds without memory."""
    full = build_meta(spec, deep_supervision=True)
    single = build_meta(spec, deep_supervision=False)
    return Expectation(
        parameters=ParameterCounts(training=count_parameters(full), inference=count_parameters(single)),
        buffers=count_buffers(full),
        fingerprint=fingerprint(full),
    )


def with_counts(spec: ModelSpec) -> ModelSpec:
    """Return `spec` with the counts of its network, which one whose network was changed lacks until it is measured."""
    return spec if spec.expect is not None else spec.model_copy(update={"expect": measure_static_expectation(spec)})


def measure_expectation(spec: ModelSpec) -> Expectation:
    """Return everything that `expect` declares, from real builds; takes a forward pass at the smallest size."""
    single = build_meta(spec, deep_supervision=False)
    shape = flops_shape(spec)
    return measure_static_expectation(spec).model_copy(
        update={
            "flops": Flops(input_shape=shape, total=count_flops(single, shape)),
            "probe": run_probe(spec, probe_shape(spec)),
        }
    )
