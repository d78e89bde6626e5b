"""Level `forward`: the network runs, forward and backward, on the CPU, at the sizes that it declares."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from connectomics_zoo.errors import InputSizeError, LimitError
from connectomics_zoo.network.build import build, probe_shape, run_probe
from connectomics_zoo.schema.model import ModelSpec, Probe
from connectomics_zoo.specs.expectation import Check, compare_probe, equal
from connectomics_zoo.verify.build_level import compare_outputs, second_size
from connectomics_zoo.verify.report import collect
from connectomics_zoo.weights.transfer import transfer

MAX_ELEMENTS = 2**24
"""Elements of an input that is run: a spec that declares more is refused before memory is taken."""

SEED = 0


def check_forward(spec: ModelSpec) -> list[Check]:
    """Return the checks of this level; random state and number of threads are afterwards what they were."""
    threads = torch.get_num_threads()
    # The tensors are small: on a busy machine, several threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return list(_checks(spec))
    finally:
        torch.set_num_threads(threads)


def _checks(spec: ModelSpec) -> Iterator[Check]:
    if spec.expect is not None and spec.expect.probe is not None:
        yield from collect("forward", "expect.probe", _probe(spec, spec.expect.probe))
    networks: list[nn.Module] = []
    yield from collect("forward", "arch", _built(spec, networks))
    if not networks:
        return
    network = networks[0]
    yield from collect("forward", "gradients", _training_step(spec, network))
    network.zero_grad()
    yield from collect("forward", "input.size.minimum", _evaluated(spec, network, spec.input.size.minimum))
    yield from collect("forward", "input.size.step", _second_size(spec, network))
    yield from collect("forward", "input", _refusals(spec, network))
    if len(spec.outputs) > 1:
        yield from collect("forward", "deep supervision", _one_checkpoint(spec, network))


def _built(spec: ModelSpec, networks: list[nn.Module]) -> Iterator[Check]:
    networks.append(build(spec, deep_supervision=True))
    yield Check("arch", ok=True)


def _probe(spec: ModelSpec, declared: Probe) -> Iterator[Check]:
    require_modest(declared.input_shape)
    checks = list(compare_probe(declared, run_probe(spec, declared.input_shape)))
    usual = probe_shape(spec)
    failed = not all(check.ok for check in checks)
    if failed and declared.input_shape != usual and _agree(declared, run_probe(spec, usual)):
        # The numbers are right, at the usual input: it is the stated input that is wrong.
        checks = [equal("expect.probe.input_shape", list(declared.input_shape), list(usual), "by its numbers")]
    yield from checks


def _agree(declared: Probe, measured: Probe) -> bool:
    return all(check.ok for check in compare_probe(declared, measured))


def _random_input(spec: ModelSpec, size: tuple[int, ...]) -> Tensor:
    shape = (1, spec.input.channels, *size)
    require_modest(shape)
    return torch.randn(shape)


def require_modest(shape: tuple[int, ...]) -> None:
    """Refuse to run an input of `shape` that would take much memory.

    Raises:
        LimitError: it has more than `MAX_ELEMENTS` elements.
    """
    if math.prod(shape) > MAX_ELEMENTS:
        raise LimitError(f"an input of shape {list(shape)} is not run, at most {MAX_ELEMENTS} elements are.")


def _training_step(spec: ModelSpec, network: nn.Module) -> Iterator[Check]:
    """Forward and backward at the smallest legal size."""
    size = spec.input.size.minimum
    returned = network.train()(_random_input(spec, size))
    yield from compare_outputs(spec, returned, size)
    outputs = returned if isinstance(returned, dict) else {spec.outputs[0].name: returned}
    yield from _finite(outputs, "in training")
    loss = torch.stack([output.square().mean() for output in outputs.values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    without = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.isfinite().all())):
            without.append(name)
    yield Check(
        "gradients",
        not without,
        note=f"none, or not finite, on {len(without)} parameter(s): {', '.join(without[:5])}" if without else "",
    )


def _finite(outputs: dict[str, Tensor], when: str) -> Iterator[Check]:
    for name, output in outputs.items():
        ok = bool(output.isfinite().all())
        yield Check(f"finite {name}", ok, note=f"finite numbers {when}" if ok else f"NaN or infinite {when}")


def _evaluated(spec: ModelSpec, network: nn.Module, size: tuple[int, ...]) -> Iterator[Check]:
    """In evaluation: one tensor at full resolution, for an input of `size`."""
    path = "input.size.minimum" if size == spec.input.size.minimum else "input.size.step"
    with torch.no_grad():
        returned = network.eval()(_random_input(spec, size))
    if not isinstance(returned, Tensor):
        yield Check(path, ok=False, note=f"evaluation returns {type(returned).__name__}, it must be one tensor")
        return
    expected = [1, spec.outputs[0].channels, *spec.input.given(size)]
    yield equal(path, expected, list(returned.shape), "shape in evaluation")
    yield from _finite({spec.outputs[0].name: returned}, f"in evaluation at {list(size)}")


def _second_size(spec: ModelSpec, network: nn.Module) -> Iterator[Check]:
    """The size one step above the smallest works too, in training and evaluation."""
    size = second_size(spec)
    if size == spec.input.size.minimum:
        return
    with torch.no_grad():
        yield from compare_outputs(spec, network.train()(_random_input(spec, size)), size)
    yield from _evaluated(spec, network, size)


def _refusals(spec: ModelSpec, network: nn.Module) -> Iterator[Check]:
    """What is not legal raises our error: on each axis one voxel less or more than the minimum, and other channels."""
    minimum, step = spec.input.size.minimum, spec.input.size.step
    for axis, (low, distance) in enumerate(zip(minimum, step, strict=True)):
        illegal = [("input.size.minimum", low - 1)] if low > 1 else []
        illegal += [("input.size.step", low + 1)] if distance > 1 else []
        for path, edge in illegal:
            size = (*minimum[:axis], edge, *minimum[axis + 1 :])
            yield _refused(path, network, (spec.input.channels, *size), f"{edge} voxels along {spec.input.axes[axis]}")
    channels = spec.input.channels + 1
    yield _refused("input.channels", network, (channels, *minimum), f"{channels} channels")


def _refused(path: str, network: nn.Module, shape: tuple[int, ...], what: str) -> Check:
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1).expand(1, *shape))  # takes no memory
    except InputSizeError:
        return Check(path, ok=True, note=f"{what} is refused")
    return Check(path, ok=False, note=f"{what} is not legal, but was accepted")


def _one_checkpoint(spec: ModelSpec, network: nn.Module) -> Iterator[Check]:
    """With and without deep supervision, one checkpoint gives bit-equal full-resolution outputs."""
    single = build(spec, deep_supervision=False)
    report = transfer(single, network.state_dict(), spec=spec, source="the network with deep supervision")
    fresh = ", ".join(report.reinitialised[:3])
    yield Check(
        "deep supervision",
        not fresh,
        note=f"without it, tensors are missing in the checkpoint: {fresh}" if fresh else "",
    )
    x = _random_input(spec, spec.input.size.minimum)
    with torch.no_grad():
        same = torch.equal(network.eval()(x), single.eval()(x))
    yield Check("deep supervision", same, note="" if same else "on or off gives other numbers at full resolution")
