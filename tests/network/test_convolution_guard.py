"""Convolutions that torch computes wrongly in bfloat16 on some CPUs run in float32, in every network that is built."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from connectomics_zoo.network import convolution_guard
from connectomics_zoo.network.convolution_guard import guard_convolutions
from connectomics_zoo.weights.load import load


def make(*, guarded: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(16, 16, 3, stride=2, padding=1))
    if guarded:
        guard_convolutions(network)
    return network


def error(value: Tensor, reference: Tensor) -> float:
    return ((value.float() - reference).norm() / reference.norm()).item()


@pytest.fixture
def recomputed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that were computed in float32 instead."""
    shapes = []
    in_float32 = convolution_guard._in_float32

    def spy(module, args, keywords):
        shapes.append(tuple(args[0].shape))
        return in_float32(module, args, keywords)

    monkeypatch.setattr(convolution_guard, "_in_float32", spy)
    return shapes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("width", [1, 2])
def test_an_output_of_width_one_is_computed_in_float32(recomputed, width, layout):
    network, x = make(), torch.randn(1, 16, 8, 8, width).to(memory_format=layout)
    with torch.no_grad():
        exact = network(x)
        assert recomputed == []
        with torch.autocast("cpu", torch.bfloat16):
            value = network(x)
    assert recomputed == [tuple(x.shape)], "without the guard, one CPU or other computes this wrongly"
    assert value.dtype == torch.bfloat16
    assert error(value, exact) < 0.005  # rounding of the result alone; in bfloat16 it would be more


def test_wider_outputs_stay_in_bfloat16(recomputed):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        make()(torch.randn(1, 16, 8, 8, 8))
    assert recomputed == []


def test_gradients_of_inputs_smaller_than_the_kernel_are_computed_in_float32(recomputed):
    network, x = make(), torch.randn(1, 16, 2, 8, 8)
    network(x).square().sum().backward()
    exact = network[0].weight.grad.clone()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        network(x).float().square().sum().backward()
    assert recomputed == [tuple(x.shape)]
    assert network[0].weight.grad.isfinite().all()
    assert error(network[0].weight.grad, exact) < 0.02


def test_networks_that_are_built_are_guarded(recomputed):
    network = load("monai_unet")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, network.spec.input.channels, *network.spec.input.size.minimum))
    assert all(shape[-1] <= 2 for shape in recomputed)
    assert any(module._forward_hooks for module in network.modules())


def test_a_guarded_network_is_copied_and_saved_like_any_other():
    network = make()
    assert network.state_dict().keys() == make(guarded=False).state_dict().keys()
    x = torch.randn(1, 16, 4, 4, 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copy.deepcopy(network)(x), network(x))


def test_whether_this_machine_needs_the_guard():
    """The day that this is skipped on every CPU of the oldest torch allowed, the guard can go."""
    network, x = make(guarded=False), torch.randn(1, 16, 8, 8, 2)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            plain = network(x)
            guarded = make()(x)
    assert error(guarded, exact) < 0.005
    if error(plain, exact) < 0.02:
        pytest.skip("this torch computes narrow convolutions in bfloat16 rightly on this CPU: the guard is idle here")
