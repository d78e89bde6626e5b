"""The builders of MONAI's networks: counts, keys, outputs, legal sizes, options, and what they refuse."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from monai.networks import nets
from monai.networks.nets.swin_unetr import PatchMergingV2
from pydantic import ValidationError
from support.builder_checks import (
    built,
    check_logits,
    check_size,
    configured,
    forbid_modules,
    next_illegal,
    predict,
    train_step,
    without_gradient,
    works,
)
from torch import Tensor, nn

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError
from connectomics_zoo.network.build import build_meta, count_parameters, fingerprint
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.schema.builder import builder_module
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model

Arch = dict[str, Any]

STRIDES = [[1, 2, 2], [2, 2, 2]]
UNETR: Arch = {"img_size": [16, 16, 32], "hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "feature_size": 4}
SWIN: Arch = {"feature_size": 12, "depths": [1] * 4, "num_heads": [1] * 4}
DYNUNET: Arch = {
    "channels": [4, 4, 8, 8],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "supervised_levels": 2,
}
BASIC: Arch = {"channels": [4, 4, 4, 4, 4, 4]}
PLUSPLUS: Arch = {"channels": [4, 4, 4, 4, 4, 4]}
UNET: Arch = {"channels": [4, 4, 8], "strides": STRIDES}
ATTENTION: Arch = {"channels": [4, 4, 8], "strides": STRIDES}
SEGRESNET: Arch = {"base_channels": 4, "num_groups": 2, "encoder_block_counts": [1, 1], "decoder_block_counts": [1]}
SEGRESNET_DS: Arch = {"base_channels": 4, "num_groups": 2, "encoder_block_counts": [1, 1, 1], "supervised_levels": 1}

CASES: list[tuple[str, Arch]] = [
    ("monai_basic_unet", BASIC),
    ("monai_basic_unet", BASIC | {"norm": "group", "num_groups": 2, "upsampling": "nontrainable"}),
    ("monai_basic_unet", BASIC | {"norm": "instance", "upsampling": "pixelshuffle", "spatial_dims": 2}),
    ("monai_basic_unet_plusplus", PLUSPLUS),
    ("monai_basic_unet_plusplus", PLUSPLUS | {"norm": "group", "num_groups": 2, "spatial_dims": 2}),
    ("monai_unet", UNET),
    ("monai_unet", UNET | {"norm": "group", "num_groups": 4, "num_res_units": 0}),
    ("monai_unet", UNET | {"norm": "group", "num_groups": 2, "channels": [4, 8, 8]}),
    ("monai_unet", {"channels": [4, 8], "strides": [[4, 3, 2]], "kernel_size": [1, 5, 3], "up_kernel_size": [3, 5, 1]}),
    ("monai_attention_unet", ATTENTION),
    ("monai_vnet", {}),
    ("monai_unetr", UNETR),
    ("monai_unetr", UNETR | {"img_size": [16, 16, 16], "norm": "batch", "projection": "perceptron"}),
    ("monai_swin_unetr", SWIN),
    ("monai_segresnet", SEGRESNET),
    ("monai_segresnet", SEGRESNET | {"norm": "batch", "upsampling": "deconv"}),
    ("monai_segresnet_ds", SEGRESNET_DS),
    ("monai_segresnet_ds", SEGRESNET_DS | {"voxel_size_nm": [40.0, 8.0, 8.0], "norm": "group"}),
    ("monai_segresnet_ds", SEGRESNET_DS | {"supervised_levels": 0, "norm": "instance"}),
    ("monai_dynunet", DYNUNET),
    ("monai_dynunet", DYNUNET | {"norm": "group", "num_groups": 2, "supervised_levels": 0}),
    ("monai_dynunet", DYNUNET | {"norm": "batch", "residual": True}),
]
BUILDERS = dict(CASES[::-1])
SPECS = [entry.name for entry in catalog.entries("model") if entry.path.parent.name in ("monai", "rsunet")]


HEADS = ("monai_basic_unet_plusplus", "monai_dynunet", "monai_segresnet_ds")
"""The builders whose networks have several outputs."""


def image(size: tuple[int, ...]) -> Tensor:
    """What `predict` gives a network."""
    torch.manual_seed(1)
    return torch.randn(1, 1, *size)


def refusal(name: str, arch: Arch) -> str:
    with pytest.raises(ValidationError) as caught:
        configured(name, arch)
    return describe_errors(caught.value)


# Counts and keys


def test_the_cases_cover_every_builder_of_a_monai_network():
    assert set(BUILDERS) == {name for name in catalog.builders() if name.startswith("monai_")}
    assert len(SPECS) == 13


def test_the_basic_unet_has_the_published_number_of_parameters():
    assert count_parameters(build_meta(get_spec("monai_basic_unet3d"), deep_supervision=False)) == 13_376_658


def monai_original(name: str, arch: Arch) -> nn.Module:
    """MONAI's own class, called as its documentation says, with all heads."""
    triples = [(1, 2, 2), (2, 2, 2), (2, 2, 2)]
    kernels = [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    common = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    unetr = arch if name == "monai_unetr" else {}
    make = {
        "monai_basic_unet": lambda: nets.BasicUNet(**common, features=[4] * 6, act="relu", norm="batch"),
        "monai_basic_unet_plusplus": lambda: nets.BasicUNetPlusPlus(
            **common, features=arch["channels"], deep_supervision=True
        ),
        "monai_unet": lambda: nets.UNet(
            **common, channels=(4, 4, 8), strides=triples[:2], num_res_units=2, norm="batch"
        ),
        "monai_attention_unet": lambda: nets.AttentionUnet(**common, channels=(4, 4, 8), strides=triples[:2]),
        "monai_vnet": lambda: nets.VNet(**common),
        "monai_unetr": lambda: nets.UNETR(1, 2, **unetr),
        "monai_swin_unetr": lambda: nets.SwinUNETR(
            in_channels=1, out_channels=2, feature_size=12, depths=(1,) * 4, num_heads=(1,) * 4
        ),
        "monai_segresnet": lambda: nets.SegResNet(
            **common, init_filters=4, blocks_down=(1, 1), blocks_up=(1,), norm=("group", {"num_groups": 2})
        ),
        "monai_segresnet_ds": lambda: nets.SegResNetDS(**common, init_filters=4, blocks_down=(1, 1, 1), dsdepth=2),
        "monai_dynunet": lambda: nets.DynUNet(
            **common,
            kernel_size=kernels,
            strides=[(1, 1, 1), *triples],
            upsample_kernel_size=triples,
            filters=[4, 4, 8, 8],
            deep_supervision=True,
            deep_supr_num=2,
        ),
    }
    return make[name]()


@pytest.mark.parametrize("name", BUILDERS)
def test_keys_shapes_and_numbers_are_those_of_monais_own_class(name):
    ours, original = built(name, BUILDERS[name]), monai_original(name, BUILDERS[name])
    assert fingerprint(ours) == fingerprint(original)
    original.load_state_dict(ours.state_dict())
    size = configured(name, BUILDERS[name])[2].minimum
    expected: Any = original.eval()(image(size))
    assert predict(ours, size).equal(expected[-1] if isinstance(expected, list) else expected)


def test_a_unetr_without_the_attention_that_older_monai_adds_has_only_the_inert_norm_left():
    inert = {name for name, value in built("monai_unetr", UNETR).named_parameters() if not value.requires_grad}
    assert inert == {f"vit.blocks.{block}.norm_cross_attn.{part}" for block in range(12) for part in ("weight", "bias")}


# Outputs, sizes and gradients


@pytest.mark.parametrize(
    ("name", "arch", "supervised"),
    [(*case, supervised) for case in CASES for supervised in ([True, False] if case[0] in HEADS else [False])],
)
def test_legal_sizes_give_the_declared_outputs_and_every_parameter_a_gradient(name, arch, supervised):
    _, _, interface = configured(name, arch)
    network = built(name, arch, deep_supervision=supervised)
    check_size(network, interface, interface.minimum, supervised=supervised)
    assert without_gradient(network) == []
    if name not in ("monai_unetr", "monai_swin_unetr"):  # which has no other size, or takes too long
        size = tuple(low + step for low, step in zip(interface.minimum, interface.step, strict=True))
        check_size(network, interface, size, supervised=supervised)


@pytest.mark.parametrize("name", BUILDERS)
def test_networks_return_raw_logits(name):
    check_logits(built(name, BUILDERS[name]), configured(name, BUILDERS[name])[2].minimum)


@pytest.mark.parametrize(("name", "arch"), [case for case in CASES if case[0] != "monai_unetr"])
def test_the_bare_network_fails_at_the_nearest_illegal_sizes(name, arch):
    _, _, interface = configured(name, arch)
    network = built(name, arch, deep_supervision=False)
    assert [size for size in next_illegal(interface) if works(network, size)] == []


@pytest.mark.parametrize("size", [(16, 32, 32), (16, 16, 16), (16, 16, 48), (32, 32, 64)])
def test_a_unetr_fails_at_any_other_size(size):
    assert not works(built("monai_unetr", UNETR), size)


def test_a_basic_unet_takes_odd_sizes():
    network = built("monai_basic_unet", BASIC)
    check_size(network, configured("monai_basic_unet", BASIC)[2], (17, 31, 45), supervised=True)


def test_group_norm_allows_a_bottleneck_of_one_voxel_unless_a_group_is_one_channel():
    minimum = {
        groups: configured("monai_unet", UNET | {"norm": "group", "num_groups": groups})[2].minimum
        for groups in (1, 2, 4)
    }
    assert minimum == {1: (2, 4, 4), 2: (2, 4, 4), 4: (2, 4, 8)}


@pytest.mark.parametrize(
    "size", [None, (1.0, 1.0, 1.0), (40.0, 8.0, 8.0), (30.0, 6.0, 12.0), (2.0, 1.0, 1.0), (1.9, 1.0, 1.0)]
)
def test_segresnet_halves_the_axes_that_monai_halves(size):
    arch = {"base_channels": 8, "encoder_block_counts": [1] * 5, "voxel_size_nm": size and list(size)}
    _, _, interface = configured("monai_segresnet_ds", arch)
    with torch.device("meta"):
        original = nets.SegResNetDS(init_filters=8, blocks_down=(1,) * 5, resolution=size)
    assert interface.step == tuple(original.shape_factor())


# Deep supervision

SUPERVISED = [
    ("monai_segresnet_ds", SEGRESNET_DS, "head."),
    ("monai_dynunet", DYNUNET, "head"),
    ("monai_basic_unet_plusplus", PLUSPLUS, "final_conv"),
]


@pytest.mark.parametrize(("name", "arch", "heads"), SUPERVISED)
def test_a_checkpoint_loads_with_and_without_deep_supervision(name, arch, heads):
    full, single = built(name, arch), built(name, arch, deep_supervision=False)
    extra = set(full.state_dict()) - set(single.state_dict())
    assert extra
    assert all(heads in key for key in extra)
    assert set(single.state_dict()) < set(full.state_dict())
    single.load_state_dict({key: value for key, value in full.state_dict().items() if key not in extra})
    size = configured(name, arch)[2].minimum
    assert predict(full, size).equal(predict(single, size))


def test_segresnets_outputs_are_monais_list_by_name():
    network, original = built("monai_segresnet_ds", SEGRESNET_DS), monai_original("monai_segresnet_ds", {})
    original.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 8, 8, 8)
    assert all(ours.equal(theirs) for ours, theirs in zip(network(x).values(), original(x), strict=True))


def test_the_outputs_of_a_nested_unet_are_monais_list_from_the_deepest_on():
    network = built("monai_basic_unet_plusplus", PLUSPLUS)
    original = monai_original("monai_basic_unet_plusplus", PLUSPLUS)
    original.load_state_dict(network.state_dict())
    x = image((16, 17, 32))
    outputs, expected = network(x), original.train()(x)
    assert list(outputs) == ["output", "ds_1", "ds_2", "ds_3"]
    assert all(ours.equal(theirs) for ours, theirs in zip(outputs.values(), expected[::-1], strict=True))


def test_dynunets_outputs_are_monais_stack_before_its_interpolation():
    network, original = built("monai_dynunet", DYNUNET), monai_original("monai_dynunet", {})
    original.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 4, 8, 16)
    outputs, stacked = network(x), original.train()(x)
    for index, (name, value) in enumerate(outputs.items()):
        resized = nn.functional.interpolate(value, x.shape[2:])
        assert resized.equal(stacked[:, index]), name


def test_a_dynunet_keeps_nothing_of_its_last_pass():
    network = built("monai_dynunet", DYNUNET)
    network(torch.randn(1, 1, 4, 8, 16))
    assert all(head.numel() == 0 for head in network.heads)
    copied = copy.deepcopy(network)
    assert list(copied(torch.randn(1, 1, 4, 8, 16))) == ["output", "ds_1", "ds_2"]


# Options


@pytest.mark.parametrize(
    ("name", "base", "change"),
    [
        ("monai_basic_unet", BASIC, {"activation": "elu"}),
        ("monai_basic_unet", BASIC, {"norm": "instance"}),
        ("monai_basic_unet", BASIC | {"norm": "group"}, {"num_groups": 2}),
        ("monai_unet", UNET, {"activation": "relu"}),
        ("monai_unet", UNET, {"num_res_units": 3}),
        ("monai_unet", UNET, {"kernel_size": [3, 3, 5]}),
        ("monai_attention_unet", ATTENTION, {"kernel_size": [3, 3, 5]}),
        ("monai_attention_unet", ATTENTION, {"up_kernel_size": [3, 3, 5]}),
        ("monai_vnet", {"dropout": 0.0}, {"activation": "prelu"}),
        ("monai_unetr", UNETR, {"norm": "batch"}),
        ("monai_unetr", UNETR, {"num_heads": 3}),
        ("monai_unetr", UNETR, {"mlp_dim": 16}),
        ("monai_vnet", {"dropout": 0.0}, {"activation": "relu"}),
        ("monai_swin_unetr", SWIN, {"num_heads": [2, 1, 1, 1]}),
        ("monai_swin_unetr", SWIN, {"patch_merging": "mergingv2"}),
        ("monai_swin_unetr", SWIN, {"normalize": False}),
        ("monai_segresnet", SEGRESNET, {"activation": "elu"}),
        ("monai_segresnet_ds", SEGRESNET_DS, {"activation": "elu"}),
        ("monai_segresnet_ds", SEGRESNET_DS, {"voxel_size_nm": [8.0, 4.0, 4.0]}),
        ("monai_dynunet", DYNUNET, {"residual": True}),
        ("monai_dynunet", DYNUNET, {"activation": "relu"}),
    ],
)
def test_an_option_changes_the_network(name, base, change):
    if base.get("norm") == "group":
        base = base | {"num_groups": 4}
    size = (32, 32, 64) if name == "monai_swin_unetr" else (16, 16, 32)
    first, second = built(name, base), built(name, base | change)
    assert fingerprint(first) != fingerprint(second) or not predict(first, size).equal(predict(second, size))


@pytest.mark.parametrize(
    ("name", "base", "option"),
    [
        ("monai_basic_unet", BASIC, "dropout"),
        ("monai_unet", UNET, "dropout"),
        ("monai_attention_unet", ATTENTION, "dropout"),
        ("monai_vnet", {}, "dropout"),
        ("monai_unetr", UNETR, "dropout"),
        ("monai_segresnet", SEGRESNET, "dropout"),
        ("monai_swin_unetr", SWIN, "dropout"),
        ("monai_swin_unetr", SWIN, "attention_dropout"),
        ("monai_swin_unetr", SWIN, "path_dropout"),
    ],
)
def test_dropout_makes_training_random_and_nothing_else(name, base, option):
    size = configured(name, base)[2].minimum
    x = torch.randn(1, 1, *size)
    for probability, differ in ((0.0, False), (0.5, True)):
        network = built(name, base | {option: probability})
        with torch.no_grad():
            torch.manual_seed(0)
            first = network.train()(x)
            torch.manual_seed(1)
            assert first.equal(network(x)) is not differ
            assert network.eval()(x).equal(network(x))


class MergingBefore15(PatchMergingV2):
    """MONAI's `PatchMerging` as it was until 1.4."""

    def forward(self, x: Tensor) -> Tensor:
        x0 = x[:, 0::2, 0::2, 0::2, :]
        x1 = x[:, 1::2, 0::2, 0::2, :]
        x2 = x[:, 0::2, 1::2, 0::2, :]
        x3 = x[:, 0::2, 0::2, 1::2, :]
        x4 = x[:, 1::2, 0::2, 1::2, :]
        x5 = x[:, 0::2, 1::2, 0::2, :]
        x6 = x[:, 0::2, 0::2, 1::2, :]
        x7 = x[:, 1::2, 1::2, 1::2, :]
        return self.reduction(self.norm(torch.cat([x0, x1, x2, x3, x4, x5, x6, x7], -1)))


@pytest.mark.parametrize(
    ("change", "monais"),
    [
        ({"patch_merging": "merging-before-1.5"}, {"downsample": MergingBefore15}),
        ({"patch_merging": "mergingv2"}, {"downsample": "mergingv2"}),
        ({"normalize": False}, {"normalize": False}),
        ({"stage_convolutions": True}, {"use_v2": True}),
    ],
)
def test_what_no_tensor_of_a_swin_unetr_tells_is_as_in_monai(change, monais):
    ours = built("monai_swin_unetr", SWIN | change)
    original = nets.SwinUNETR(1, 2, feature_size=12, depths=(1,) * 4, num_heads=(1,) * 4, **monais)
    original.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(original.state_dict())
    size = (32, 32, 64)
    assert predict(ours, size).equal(predict(original, size))
    if "use_v2" in monais:
        return
    original.load_state_dict(built("monai_swin_unetr", SWIN).state_dict())
    assert not predict(built("monai_swin_unetr", SWIN), size).equal(predict(original, size))


def test_checkpointing_recomputes_the_blocks_of_a_swin_unetr_and_keeps_its_numbers():
    plain, checkpointed = built("monai_swin_unetr", SWIN), built("monai_swin_unetr", SWIN | {"checkpointing": True})
    size = (32, 32, 64)
    assert train_step(plain, size)["output"].allclose(train_step(checkpointed, size)["output"], atol=1e-6)
    blocks = [module for module in checkpointed.modules() if getattr(module, "use_checkpoint", False)]
    assert blocks
    assert not [module for module in plain.modules() if getattr(module, "use_checkpoint", False)]


# Refusals


@pytest.mark.parametrize(
    ("name", "arch", "message"),
    [
        ("monai_unet", {"kernel_size": [2, 3, 3]}, r"kernel_size\[0\]: 2 is even, a kernel needs a centre"),
        ("monai_unet", {"strides": [[2, 2, 2]]}, "strides has 1 entries and a network of 5 levels needs 4"),
        ("monai_unet", {"norm": "group", "num_groups": 7}, "cannot divide 32 channels into 7 groups"),
        ("monai_unet", {"channels": [8192] * 5, "kernel_size": [15, 15, 15]}, "asks for about .* at most 1e"),
        ("monai_basic_unet", {"channels": [8192] * 6}, "asks for about .* at most 1e"),
        ("monai_basic_unet_plusplus", {"channels": [8192] * 6}, "asks for about .* at most 1e"),
        ("monai_attention_unet", {"channels": [4, 1], "strides": [[2, 2, 2]]}, "a gate halves its channels"),
        ("monai_attention_unet", {"channels": [8192] * 5}, "asks for about .* at most 1e"),
        ("monai_unetr", {"img_size": [64, 64, 40]}, r"img_size\[2\]: .* multiple of 16 \(got 40\)"),
        ("monai_unetr", {"hidden_size": 100}, "hidden_size 100 is no multiple of num_heads 12"),
        ("monai_unetr", {"hidden_size": 8192, "mlp_dim": 65536, "num_heads": 1}, "asks for about"),
        ("monai_swin_unetr", {"num_heads": [5, 6, 12, 24]}, "num_heads 5 does not divide the 48 channels of stage 0"),
        ("monai_swin_unetr", {"feature_size": 1536, "depths": [256] * 4}, "asks for about"),
        ("monai_segresnet", {"decoder_block_counts": [1]}, "has 1 entries and an encoder of 4 levels needs 3"),
        ("monai_segresnet", {"base_channels": 1024}, "asks for about"),
        ("monai_segresnet_ds", {"supervised_levels": 3}, "supervised_levels 3 is too many, 3 decoder levels allow at"),
        ("monai_segresnet_ds", {"base_channels": 1024}, "asks for about"),
        ("monai_dynunet", {"supervised_levels": 4}, "supervised_levels 4 is too many, 5 levels allow at most 3"),
        ("monai_dynunet", {"strides": [[8, 2, 2]] + [[2, 2, 2]] * 3}, r"stride \[8, 2, 2\] skips voxels under kernel"),
        ("monai_dynunet", {"residual": True, "strides": [[3, 2, 2]] * 4}, "residual blocks take strides up to 2"),
        ("monai_dynunet", {"kernel_sizes": [[3, 3, 3]] * 4}, "kernel_sizes has 4 entries and a network of 5 levels"),
        ("monai_dynunet", {"channels": [8192] * 5}, "asks for about"),
        ("monai_vnet", {"dropout": 1.0}, "dropout: Input should be less than or equal to 0.95"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(name, arch, message):
    assert re.search(message, refusal(name, arch))


def test_an_absurd_network_is_refused_before_any_of_it_is_made(monkeypatch):
    forbid_modules(monkeypatch)
    with pytest.raises(SpecError, match="at most 1e"):
        resolve_model("monai_dynunet", arch={"channels": [8192] * 6})


def test_a_vnet_refuses_input_channels_that_do_not_divide_its_first_ones():
    builder, config, _ = configured("monai_vnet", {})
    with pytest.raises(SpecError, match="cannot do so with 3, give it 1, 2, 4, 8 or 16 input channels"):
        builder.build(config, in_channels=3, out_channels=2, deep_supervision=False)


def test_a_unet_refuses_output_channels_that_its_groups_do_not_divide():
    with pytest.raises(SpecError, match="4 groups cannot divide the 2 output channels"):
        built("monai_unet", UNET | {"norm": "group", "num_groups": 4})


# Cost


@pytest.mark.parametrize("name", [name for name in SPECS if name != "monai_vnet"])
def test_the_estimate_behind_the_limit_is_right_to_a_factor_of_two(name):
    spec = get_spec(name)
    arch: Any = spec.arch
    true = count_parameters(build_meta(spec, deep_supervision=True))
    assert true / 2 < arch.approximate_parameters < true * 2


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_builds_on_the_meta_device(name):
    builder, config, _ = configured(name, BUILDERS[name])
    with torch.device("meta"):
        network = builder.build(config, in_channels=1, out_channels=2, deep_supervision=True)
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert fingerprint(network) == fingerprint(built(name, BUILDERS[name]))


def test_interfaces_need_neither_torch_nor_monai():
    code = (
        "import sys; from connectomics_zoo import catalog; from connectomics_zoo.specs.lookup import get_spec\n"
        "from connectomics_zoo.schema.builder import builder_module\n"
        "specs = [get_spec(entry.name) for entry in catalog.entries('model') if entry.version is None]\n"
        "names = {spec.builder for spec in specs if builder_module(spec.builder).interface(spec.arch)}\n"
        "print(len(names), [name for name in ('torch', 'monai', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split(maxsplit=1) == [str(len(catalog.builders())), "[]\n"]


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_declares_the_interface_of_its_builder(name):
    spec = get_spec(name)
    interface = builder_module(spec.builder).interface(spec.arch)
    assert (interface.minimum, interface.step) == (spec.input.size.minimum, spec.input.size.step)
    assert [tuple(output) for output in interface.outputs] == [
        (output.name, output.stride, output.loss_weight) for output in spec.outputs
    ]
