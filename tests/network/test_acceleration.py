"""Networks that are prepared for inference on a CPU compute what they computed before, channels last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from connectomics_zoo import fastpath
from connectomics_zoo.network.acceleration import make_channels_last, prepare_inference
from connectomics_zoo.schema.builder import prefers_channels_last
from connectomics_zoo.weights.load import load


def error(value: Tensor, reference: Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


def make(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv3d(8, 4, 3, stride=2)).eval()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return network


NORMS = {
    "group norm": lambda: nn.GroupNorm(2, 8),
    "one channel a group": lambda: nn.GroupNorm(8, 8),
    "one group": lambda: nn.GroupNorm(1, 8),
    "instance norm": lambda: nn.InstanceNorm3d(8, affine=True),
    "bare instance norm": lambda: nn.InstanceNorm3d(8),
    "batch norm": lambda: nn.BatchNorm3d(8),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("size", [(9, 7, 5), (8, 8, 8), (3, 3, 3)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_values_are_those_of_the_plain_layers(name, size, offset):
    network = make(NORMS[name]())
    x = torch.randn(2, 1, *size) + offset
    with torch.inference_mode():
        exact = network.double()(x.double())
        plain = network.float()(x)
        make_channels_last(network)
        fast = network(x)
        with fastpath.plain_only():
            switched_off = network(x)
    assert error(fast, exact) < 2 * error(plain, exact) + 2e-6
    assert error(switched_off, exact) < 2e-3
    assert fast.shape == plain.shape


@pytest.mark.parametrize("name", ["group norm", "instance norm"])
def test_values_under_autocast_are_as_close(name):
    network = make(NORMS[name]())
    x = torch.randn(2, 1, 12, 12, 12)
    with torch.inference_mode():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            plain = network(x)
            make_channels_last(network)
            fast = network(x)
    assert fast.dtype == plain.dtype
    assert error(fast, exact) < 1.5 * error(plain, exact)


@pytest.mark.parametrize("name", ["monai_unet", "monai_segresnet", "rsunet"])
def test_models_keep_their_values_and_keys(name):
    network = load(name)
    x = torch.randn(1, network.spec.input.channels, *network.spec.input.size.minimum)
    keys = list(network.state_dict())
    with torch.inference_mode():
        before = network(x)
        prepared = prepare_inference(network, device=torch.device("cpu"))
        assert error(prepared(x), before) < 1e-4
    assert prefers_channels_last(network.spec.builder)
    assert any(type(module).__name__.startswith("ChannelsLast") for module in prepared.modules())
    assert list(prepared.state_dict()) == keys


def test_mednext_and_other_devices_are_left_alone():
    for name, device in (("mednext-S", "cpu"), ("monai_unet", "meta")):
        network = prepare_inference(load(name), device=torch.device(device))
        assert not any(type(module).__name__.startswith("ChannelsLast") for module in network.modules())
