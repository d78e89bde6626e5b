"""RSUNet: PyTorch Connectomics' counts, keys and numbers, the upsampling, outputs, legal sizes and options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.builder_checks import (
    built,
    check_logits,
    check_size,
    configured,
    next_illegal,
    predict,
    train_step,
    without_gradient,
    works,
)
from torch import nn
from torch.nn import functional as F

from connectomics_zoo.network.build import build_meta, count_parameters, fingerprint
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.specs.lookup import get_spec
from zoo.builders.nets.rsunet import LinearUpsampling, NormAct

Arch = dict[str, Any]

TINY: Arch = {
    "channels": [4, 6, 8],
    "strides": [[1, 2, 2], [2, 3, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
STEM: Arch = TINY | {"stem_kernel_size": [1, 5, 5], "head_kernel_size": [1, 5, 5], "activation": "elu"}
CASES: list[Arch] = [
    TINY,
    STEM,
    STEM | {"norm": "instance", "activation": "leakyrelu"},
    STEM | {"norm": "group", "num_groups": 2},
    TINY | {"norm": "group", "num_groups": 8, "activation": "prelu"},
    STEM | {"norm": "none"},
]


def levels(channels: list[int], *, stride: list[int], flat: int = 0, **options: Any) -> Arch:
    """PyTorch Connectomics' configuration: one stride for all levels, and `flat` levels with kernels (1, 3, 3)."""
    return {
        "channels": channels,
        "strides": [stride] * (len(channels) - 1),
        "kernel_sizes": [[1, 3, 3] if level < flat else [3, 3, 3] for level in range(len(channels))],
        **options,
    }


# Compatibility with PyTorch Connectomics. The numbers are those of its `RSUNet` (models/arch/rsunet.py, commit
# 066f1c2), for one input and two output channels: parameters without and with deep supervision.

ANISO, ISO = [1, 2, 2], [2, 2, 2]


@pytest.mark.parametrize(
    ("arch", "inference", "training"),
    [
        (levels([16, 32, 64, 128], stride=ANISO), 2_647_284, 2_647_738),
        (levels([16, 32, 64, 128], stride=ISO), 2_647_284, 2_647_738),
        (levels([36, 48, 64, 80], stride=ANISO, flat=1, activation="elu"), 2_090_728, 2_091_118),
        (levels([32, 64, 128, 256], stride=ANISO), 10_583_012, 10_583_914),
        (
            levels([28, 36, 48, 64, 80], stride=ANISO, flat=2, norm="group", activation="prelu"),
            2_150_581,
            2_151_045,
        ),
        (levels([16, 32, 64, 128], stride=ANISO, norm="none"), 2_644_690, 2_645_144),
        (levels([16, 32, 64, 128], stride=ANISO, norm="instance", activation="leakyrelu"), 2_644_690, 2_645_144),
        (levels([4, 6, 8, 10, 12, 14, 16], stride=ANISO), 145_500, 145_612),
    ],
)
def test_parameter_counts_are_those_of_pytorch_connectomics(arch, inference, training):
    builder, config, _ = configured("rsunet", arch)
    with torch.device("meta"):
        counts = [
            count_parameters(builder.build(config, in_channels=1, out_channels=2, deep_supervision=heads))
            for heads in (False, True)
        ]
    assert counts == [inference, training]


GOLDEN = {
    "batch": (
        levels([4, 6, 8], stride=ANISO),
        "sha256:c04c549e131fc9fea13409eb9603594f4d495d5654002f34626784da48c821a5",
        {
            "output": (0.654894, 0.435677, 0.46947, 0.124081),
            "ds_1": (0.200573, -0.00796, -0.151996, -0.168411),
            "ds_2": (0.498893, 0.64867, -0.327531, -0.370089),
        },
    ),
    "group": (
        levels([4, 6, 8], stride=ANISO, flat=1, norm="group", num_groups=4, activation="elu"),
        "sha256:4b5e528f8f2641e3411d6256d4f5b8cba3290cb980480365ecfc7e0349dce266",
        {
            "output": (0.760686, 0.009492, -0.232327, 0.095703),
            "ds_1": (0.250482, -0.012553, -0.338614, -0.253826),
            "ds_2": (0.480264, 0.051526, 0.433563, 0.551395),
        },
    ),
    "instance": (
        levels([4, 6, 8], stride=ANISO, norm="instance", activation="prelu"),
        "sha256:4e90f9e4e6a214a8356ad07739d010412ebdc6f62371b15de4dc39997be1eccd",
        {
            "output": (1.076344, 0.143274, 0.055891, -0.102243),
            "ds_1": (0.291322, -0.102308, -0.232467, -0.184949),
            "ds_2": (0.621441, 0.391776, 0.999177, 0.359505),
        },
    ),
    "factor-of-three": (
        levels([4, 6, 8], stride=ANISO, activation="leakyrelu", negative_slope=0.2)
        | {"strides": [[1, 2, 2], [1, 3, 3]]},
        "sha256:74b4a38e15f0c2ce351164ad7b51742849ed50f092a0e3564175f926053c7e0d",
        {
            "output": (0.696039, 0.301033, 0.398939, 0.230686),
            "ds_1": (0.214254, -0.061297, -0.252138, -0.041429),
            "ds_2": (0.471179, 0.365011, 0.091859, 0.128117),
        },
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_keys_and_numbers_are_those_of_pytorch_connectomics(case):
    arch, keys, expected = GOLDEN[case]
    network = built("rsunet", arch)
    assert fingerprint(network) == keys
    seed_parameters(network)
    outputs = network(seeded_input((1, 1, 2, 12, 24)))
    measured = {}
    for name, value in outputs.items():
        flat = value.detach().double().flatten()
        measured[name] = (flat.square().mean().sqrt(), flat[0], flat[flat.numel() // 2], flat[-1])
    assert list(measured) == list(expected)
    for name, values in expected.items():
        assert [number.item() for number in measured[name]] == pytest.approx(values, abs=2e-5)


def test_a_checkpoint_with_other_upsampling_weights_brings_them_along():
    arch = levels([4, 6], stride=ISO)
    network, state = built("rsunet", arch), built("rsunet", arch).state_dict()
    state["up_blocks.0.up.weight"] = 2 * state["up_blocks.0.up.weight"]
    before = predict(network, (4, 4, 4))
    network.load_state_dict(state)
    assert not predict(network, (4, 4, 4)).equal(before)


# The published networks


def test_the_anisotropic_model_is_the_paper_s_and_never_mixes_voxels_of_sections_when_it_pools():
    spec = get_spec("rsunet-aniso")
    arch: Any = spec.arch
    assert arch.channels == (28, 36, 48, 64, 80)
    assert {stride[0] for stride in arch.strides} == {1}
    assert arch.kernel_sizes[0] == (1, 3, 3)
    network = build_meta(spec, deep_supervision=True)
    assert network.get_submodule("stem").weight.shape == (28, 1, 1, 5, 5)
    assert network.get_submodule("output_head").weight.shape == (2, 28, 1, 5, 5)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leakyrelu", 0.5), ("prelu", 0.25)])
def test_convolutions_start_with_the_variance_that_keeps_the_signal_s(activation, slope):
    network = built("rsunet", levels([64, 64], stride=ANISO, activation=activation, negative_slope=0.5))
    weight = network.get_submodule("down_blocks.0.conv.post.1").weight
    assert weight.var().item() == pytest.approx(2 / (1 + slope**2) / (64 * 27), rel=0.03)
    assert not network.get_submodule("output_head").bias.any()


# Upsampling


@pytest.mark.parametrize("factor", [(1, 2, 2), (2, 2, 2), (1, 3, 3), (2, 3, 4), (1, 1, 5)])
def test_upsampling_interpolates_linearly_away_from_the_border(factor):
    x = torch.rand(1, 3, 4, 5, 6)
    upsampled = LinearUpsampling(3, factor)(x)
    linear = F.interpolate(x, scale_factor=[float(step) for step in factor], mode="trilinear", align_corners=False)
    assert upsampled.shape == linear.shape
    inside = (..., *(slice(step, -step) for step in factor))
    assert upsampled[inside].allclose(linear[inside], atol=1e-5)


def test_upsampling_sees_zeros_outside_the_volume():
    upsampled = LinearUpsampling(1, (1, 2, 2))(torch.ones(1, 1, 1, 4, 4))
    assert upsampled[0, 0, 0, 0, 3].item() == pytest.approx(0.75)
    assert upsampled[0, 0, 0, 3, 3].item() == pytest.approx(1.0)


def test_upsampling_weights_are_fixed_but_in_the_state_dict():
    module = LinearUpsampling(3, (1, 2, 2))
    assert list(module.parameters()) == []
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {"weight": (3, 1, 1, 4, 4)}


# Outputs, sizes and gradients


@pytest.mark.parametrize("supervised", [True, False], ids=["heads", "no-heads"])
@pytest.mark.parametrize("arch", CASES)
def test_legal_sizes_give_the_declared_outputs_and_every_parameter_a_gradient(arch, supervised):
    _, _, interface = configured("rsunet", arch)
    network = built("rsunet", arch, deep_supervision=supervised)
    check_size(network, interface, interface.minimum, supervised=supervised)
    assert without_gradient(network) == []
    size = tuple(low + step for low, step in zip(interface.minimum, interface.step, strict=True))
    check_size(network, interface, size, supervised=supervised)


@pytest.mark.parametrize("arch", CASES)
def test_the_bare_network_fails_at_the_nearest_illegal_sizes(arch):
    _, _, interface = configured("rsunet", arch)
    network = built("rsunet", arch, deep_supervision=False)
    illegal = next_illegal(interface)
    assert illegal
    assert [size for size in illegal if works(network, size)] == []


def test_the_network_returns_raw_logits():
    check_logits(built("rsunet", STEM), (2, 6, 8))


def test_only_the_four_coarsest_levels_are_supervised():
    _, config, interface = configured("rsunet", levels([4] * 7, stride=ANISO))
    assert config.supervised == (3, 4, 5, 6)
    assert [output.stride for output in interface.outputs] == [(1, edge, edge) for edge in (1, 8, 16, 32, 64)]
    assert [output.loss_weight for output in interface.outputs] == [1, 0.5, 0.25, 0.125, 0.0625]
    outputs = train_step(built("rsunet", levels([4] * 7, stride=ANISO)), (1, 64, 128))
    assert [value.shape[3] for value in outputs.values()] == [64, 8, 4, 2, 1]


def test_a_checkpoint_loads_with_and_without_deep_supervision():
    full, single = built("rsunet", STEM), built("rsunet", STEM, deep_supervision=False)
    extra = set(full.state_dict()) - set(single.state_dict())
    assert extra == {f"ds_heads.{head}.{part}" for head in range(2) for part in ("weight", "bias")}
    single.load_state_dict({key: value for key, value in full.state_dict().items() if key not in extra})
    assert predict(full, (2, 6, 8)).equal(predict(single, (2, 6, 8)))


# Options


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (TINY, {"activation": "elu"}),
        (TINY | {"activation": "leakyrelu"}, {"negative_slope": 0.5}),
        (TINY | {"activation": "prelu"}, {"initial_slope": 0.5}),
        (TINY, {"norm": "none"}),
        (TINY | {"norm": "group", "num_groups": 1}, {"num_groups": 2}),
        (TINY, {"kernel_sizes": [[3, 3, 3]] * 3}),
        (TINY, {"stem_kernel_size": [1, 5, 5]}),
        (TINY, {"head_kernel_size": [1, 5, 5]}),
    ],
)
def test_an_option_changes_the_network(base, change):
    first, second = built("rsunet", base), built("rsunet", base | change)
    assert fingerprint(first) != fingerprint(second) or not predict(first, (2, 6, 8)).equal(predict(second, (2, 6, 8)))


def test_groups_that_do_not_divide_the_channels_become_the_next_fewer_that_do():
    arch = levels([6, 9], stride=ANISO, norm="group", num_groups=8)
    norms = {
        (module.norm.num_channels, module.norm.num_groups)
        for module in built("rsunet", arch).modules()
        if isinstance(module, NormAct) and isinstance(module.norm, nn.GroupNorm)
    }
    assert norms == {(1, 1), (6, 6), (9, 3)}


@pytest.mark.parametrize("activation", ["relu", "elu", "leakyrelu"])
def test_without_a_norm_the_activation_leaves_the_input_and_the_skips_as_they_are(activation):
    network = built("rsunet", TINY | {"norm": "none", "activation": activation})
    x = -torch.rand(1, 1, 2, 6, 8)
    before = x.clone()
    network(x)
    assert x.equal(before)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (TINY | {"strides": [[1, 2, 2]]}, "strides has 1 entries and a network of 3 levels needs 2, give as many"),
        (TINY | {"kernel_sizes": [[3, 3, 3]] * 2}, "kernel_sizes has 2 entries and a network of 3 levels needs 3"),
        (TINY | {"strides": [[1, 1, 1]] * 2}, "strides are all 1, a U-Net needs a coarser level"),
        (TINY | {"head_kernel_size": [1, 4, 5]}, "head_kernel_size[1]: 4 is even, a kernel needs a centre"),
        (levels([8192] * 4, stride=ANISO), "asks for about 5.1e+10 parameters, at most 1e+09 are allowed"),
        (TINY | {"norm": "layer"}, "norm: Input should be 'batch', 'group', 'instance' or 'none'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(arch, message):
    with pytest.raises(ValidationError) as caught:
        configured("rsunet", arch)
    assert message in describe_errors(caught.value)


def test_a_network_builds_on_the_meta_device():
    builder, config, _ = configured("rsunet", STEM)
    with torch.device("meta"):
        network = builder.build(config, in_channels=1, out_channels=2, deep_supervision=True)
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert fingerprint(network) == fingerprint(built("rsunet", STEM))
