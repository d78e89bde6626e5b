"""A pass without data returns, costs and refuses what torch's own would."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from connectomics_zoo.network import build
from connectomics_zoo.network.meta_pass import MetaPass
from connectomics_zoo.specs.lookup import get_spec

META = torch.device("meta")


def _channels(*shape):
    return torch.empty(shape, device=META)


SHORT_CUTS = {
    "batch norm in training": lambda x: F.batch_norm(x, _channels(4), _channels(4), _channels(4), _channels(4), True),
    "batch norm in evaluation": lambda x: F.batch_norm(x, _channels(4), _channels(4)),
    "instance norm": lambda x: F.instance_norm(x, weight=_channels(4), bias=_channels(4)),
    "group norm": lambda x: F.group_norm(x, 2, _channels(4), _channels(4)),
    "group norm without weights": lambda x: F.group_norm(x, 4),
    "elu": F.elu,
    "elu in place": lambda x: F.elu(x, inplace=True),
    "gelu": F.gelu,
    "leaky relu": F.leaky_relu,
    "leaky relu in place": lambda x: F.leaky_relu(x, inplace=True),
    "layer norm": lambda x: F.layer_norm(x, (7,), _channels(7), _channels(7)),
    "layer norm over space": lambda x: F.layer_norm(x, (5, 6, 7)),
    "one number a channel": lambda x: (x * torch.empty(7, device=META, dtype=x.dtype)) + x.new_empty(7),
    "softmax": lambda x: F.softmax(x, -1),
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in SHORT_CUTS]
    + [(name, torch.bfloat16) for name in SHORT_CUTS if "norm" not in name],
)
def test_a_pass_without_data_returns_what_torch_returns_without_data(name, dtype):
    x = torch.empty(3, 4, 5, 6, 7, device=META, dtype=dtype)
    with torch.no_grad():
        plain = SHORT_CUTS[name](x)
        with MetaPass():
            quick = SHORT_CUTS[name](x)
    assert (quick.shape, quick.dtype, quick.device) == (plain.shape, plain.dtype, plain.device)
    assert (quick is x) == (plain is x) == ("in place" in name)


def test_a_norm_in_a_pass_without_data_has_the_statistics_that_torch_returns():
    x, weight = torch.empty(3, 4, 5, 6, 7, device=META), torch.empty(4, device=META)

    def normed():
        return (
            *torch.native_group_norm(x, weight, weight, 3, 4, 5 * 6 * 7, 2, 1e-5),
            *torch.native_layer_norm(x, (6, 7), None, None, 1e-5),
            *torch.native_batch_norm(x, weight, weight, weight, weight, True, 0.1, 1e-5),
        )

    plain = [tensor.shape for tensor in normed()]
    with MetaPass():
        assert [tensor.shape for tensor in normed()] == plain


@pytest.mark.parametrize("name", [*SHORT_CUTS, "sum", "product"])
def test_gradients_without_data_are_of_the_shapes_that_torch_returns(name):
    operation = {"sum": lambda x: x * 2 + x, "product": lambda x: x * x, **SHORT_CUTS}[name]
    gradients = []
    for mode in (nullcontext(), MetaPass()):
        x = torch.empty(3, 4, 5, 6, 7, device=META, requires_grad=True)
        with mode:
            operation(x + 1).sum().backward()
        gradients.append((x.grad.shape, x.grad.dtype))
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: F.batch_norm(x, _channels(5), _channels(5)),
        lambda x: F.batch_norm(x, _channels(4), _channels(4), weight=_channels(3)),
        lambda x: F.layer_norm(x, (6,)),
        lambda x: F.layer_norm(x, (7,), _channels(6)),
        lambda x: F.group_norm(x, 3),
        lambda x: F.group_norm(x, 2, _channels(3), _channels(3)),
    ],
)
def test_a_norm_that_does_not_fit_is_refused_in_a_pass_without_data(wrong):
    x = torch.empty(3, 4, 5, 6, 7, device=META)
    with torch.no_grad(), MetaPass(), pytest.raises((RuntimeError, ValueError)):
        wrong(x)


def test_a_pass_without_data_leaves_real_tensors_alone():
    x = torch.linspace(-1, 1, 24).reshape(1, 4, 6)
    with MetaPass():
        assert torch.equal(F.relu(x), x.clamp(min=0))
        assert F.group_norm(x, 2).square().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["mednext-S", "monai_unet", "monai_unetr", "monai_vnet", "omniem", "rsunet-aniso"])
def test_a_pass_without_data_costs_what_torch_counts_and_has_its_shapes(name):
    spec = get_spec(name)
    network = build.build_meta(spec, deep_supervision=True)
    shape = spec.expect.flops.input_shape

    def measure():
        flops = build.count_flops(network, shape)
        with torch.no_grad():
            returned = network.train()(torch.empty(shape, device=META))
        outputs = returned if isinstance(returned, dict) else {"output": returned}
        return flops, {key: value.shape for key, value in outputs.items()}

    plain = measure()
    with MetaPass():
        assert measure() == plain
