"""Level `build`: the network on the meta device: counts, fingerprint, FLOPs and the shapes of every scale."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from connectomics_zoo.network.build import (
    build_meta,
    count_buffers,
    count_flops,
    count_parameters,
    fingerprint,
    flops_shape,
)
from connectomics_zoo.network.meta_pass import MetaPass
from connectomics_zoo.schema.model import Expectation, Flops, ModelSpec, ParameterCounts
from connectomics_zoo.specs.expectation import Check, compare_counts, equal
from connectomics_zoo.verify.report import collect


def check_build(spec: ModelSpec) -> list[Check]:
    """Return the checks of this level; the random state is afterwards what it was."""
    with torch.random.fork_rng(devices=[]), MetaPass():  # type: ignore[no-untyped-call]
        return list(_checks(spec))


def _checks(spec: ModelSpec) -> Iterator[Check]:
    networks: list[nn.Module] = []
    yield from collect("build", "arch", _built(spec, networks))
    if len(networks) < 2:
        return
    full, single = networks
    if spec.expect is not None:
        yield from collect("build", "expect", _counts(spec, spec.expect, full, single))
    yield from collect("build", "outputs", _shapes(spec, full))
    if spec.expect is not None and spec.expect.flops is not None:
        yield from collect("build", "expect.flops", _flops(spec, single, spec.expect.flops))


def _built(spec: ModelSpec, networks: list[nn.Module]) -> Iterator[Check]:
    """Build the network with its deep-supervision heads, and without."""
    for deep_supervision in (True, False):
        networks.append(build_meta(spec, deep_supervision=deep_supervision))
    yield Check("arch", ok=True)


def _counts(spec: ModelSpec, declared: Expectation, full: nn.Module, single: nn.Module) -> Iterator[Check]:
    measured = Expectation(
        parameters=ParameterCounts(training=count_parameters(full), inference=count_parameters(single)),
        buffers=count_buffers(full),
        fingerprint=fingerprint(full),
    )
    yield from compare_counts(declared, measured)
    if declared.fingerprint != measured.fingerprint:
        yield from _blame_channels(spec, declared)


def _blame_channels(spec: ModelSpec, expect: Expectation) -> Iterator[Check]:
    """Find the number of channels that the recorded fingerprint belongs to, where that is all that differs.

    The number of parameters is linear in the channels of input and outputs, so there is one candidate each.
    """
    count = count_parameters(build_meta(spec, deep_supervision=True))
    for path, side, declared in (
        ("input.channels", "inputs", spec.input.channels),
        ("outputs[0].channels", "outputs", spec.outputs[0].channels),
    ):
        wider = spec.with_channels(**{side: declared + 1})
        slope = count_parameters(build_meta(wider, deep_supervision=True)) - count
        missing = expect.parameters.training - count
        if slope <= 0 or missing % slope or declared + missing // slope < 1:
            continue
        channels = declared + missing // slope
        if fingerprint(build_meta(spec.with_channels(**{side: channels}), deep_supervision=True)) == expect.fingerprint:
            yield equal(path, declared, channels, "by the recorded parameters and fingerprint")


def _shapes(spec: ModelSpec, network: nn.Module) -> Iterator[Check]:
    """One training pass at the second legal size, which tells the axes apart better than the smallest one."""
    size = second_size(spec)
    with torch.no_grad():
        returned = network.train()(torch.empty((1, spec.input.channels, *size), device="meta"))
    yield from compare_outputs(spec, returned, size)


def second_size(spec: ModelSpec) -> tuple[int, ...]:
    """Return the legal size one step above the smallest one, on every axis that has a second one."""
    rule = spec.input.size
    return rule.round_up(tuple(low + 1 for low in rule.minimum))


def compare_outputs(spec: ModelSpec, returned: Tensor | dict[str, Tensor], size: tuple[int, ...]) -> Iterator[Check]:
    """Yield the comparison of what a network returned in training for an input of `size` with `outputs`."""
    names = [output.name for output in spec.outputs]
    if isinstance(returned, dict):
        yield equal("outputs", names, list(returned), "the keys that the network returns in training, in order")
    else:
        yield equal("outputs", names, names[:1], "the network returns one tensor in training")
        returned = {names[0]: returned}
    for index, output in enumerate(spec.outputs):
        if output.name in returned:
            shape = tuple(returned[output.name].shape)
            if index == 0 and shape[2:] != spec.input.given(size):
                yield _context(spec, size, shape[2:])
                return
            strides = [whole / part for whole, part in zip(spec.input.given(size), shape[2:], strict=True)]
            measured = [int(stride) if stride.is_integer() else stride for stride in strides]
            yield equal(f"outputs[{index}].stride", list(output.stride), measured, f"input {list(size)}")
            yield equal(f"outputs[{index}].channels", output.channels, shape[1], f"outputs of shape {list(shape)}")


def _context(spec: ModelSpec, size: tuple[int, ...], given: tuple[int, ...]) -> Check:
    """Return the check that fails where the first output has another size than declared: its context, if it has one."""
    lost = [whole - part for whole, part in zip(size, given, strict=True)]
    note = f"an input of {list(size)} gives {list(given)}"
    if all(voxels >= 0 and voxels % 2 == 0 for voxels in lost):
        context = None if spec.input.context is None else list(spec.input.context)
        return equal("input.context", context, [voxels // 2 for voxels in lost] if any(lost) else None, note)
    strides = [whole / part for whole, part in zip(size, given, strict=True)]
    return equal("outputs[0].stride", list(spec.outputs[0].stride), strides, note)


def _flops(spec: ModelSpec, network: nn.Module, declared: Flops) -> Iterator[Check]:
    usual = flops_shape(spec)
    measured = count_flops(network, declared.input_shape)
    if measured != declared.total and declared.input_shape != usual and count_flops(network, usual) == declared.total:
        # The total is right, at the usual input: it is the stated input that is wrong.
        yield equal("expect.flops.input_shape", list(declared.input_shape), list(usual), "by the stated total")
    else:
        yield equal("expect.flops.total", declared.total, measured, f"at {list(declared.input_shape)}")
