"""The way in from PyTorch Connectomics (PyTC): its configurations build here, with the same parameter counts."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from support.paths import REPOSITORY
from support.pytc import assert_is_pytc, full
from torch import Tensor

import zoo
from connectomics_zoo.compat import build_model, list_architectures, print_available_architectures
from connectomics_zoo.compat.layouts import FLAT, NESTED, Layout
from connectomics_zoo.errors import SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.network.build import count_parameters
from connectomics_zoo.schema.builder import pytc_architectures
from zoo.builders.nets.mednext import Block

DATA = REPOSITORY / "tests" / "support" / "data"
TUTORIALS = {name: read_yaml(DATA / f"pytc_{name}.yaml") for name in ("flat", "nested")}


def flat(**model: Any) -> dict[str, Any]:
    return {"model": model}


# The same parameter counts

VARIANTS: list[dict[str, Any]] = [
    *(
        {"architecture": "mednext", "out_channels": 2, "mednext_size": size, "mednext_kernel_size": kernel, **more}
        for size, kernel, more in (
            ("S", 3, {"deep_supervision": True}),
            ("S", 5, {"deep_supervision": False}),
            ("S", 7, {"deep_supervision": True}),
            ("B", 3, {"deep_supervision": True, "in_channels": 3}),
        )
    ),
    {"architecture": "mednext_custom"},
    {
        "architecture": "mednext_custom",
        "out_channels": 3,
        "deep_supervision": True,
        "mednext_base_channels": 8,
        "mednext_exp_r": [2, 3, 4, 4, 4, 4, 4, 3, 2],
        "mednext_kernel_size": 5,
        "mednext_do_res": False,
        "mednext_do_res_up_down": False,
        "mednext_block_counts": [1, 2, 1, 1, 2, 1, 1, 2, 1],
        "mednext_checkpoint_style": "outside_block",
        "mednext_norm": "layer",
        "mednext_dim": "2d",
        "mednext_grn": True,
    },
    {"architecture": "monai_basic_unet3d"},
    {"architecture": "monai_basic_unet3d", "out_channels": 2, "filters": [16, 32, 64, 128, 256, 512]},
    {"architecture": "monai_basic_unet3d", "filters": [4, 2], "norm": "instance", "upsample": "pixelshuffle"},
    {"architecture": "monai_basic_unet3d", "filters": [8] * 6, "input_size": [64, 64], "activation": "elu"},
    {"architecture": "monai_unet"},
    {"architecture": "monai_unet", "filters": [8, 16, 32], "norm": "group", "num_groups": 4, "num_res_units": 0},
    {"architecture": "monai_unet", "filters": [8, 16], "kernel_size": 5, "norm": "instance", "dropout": 0.2},
    {"architecture": "monai_unetr", "input_size": [32, 32, 32], "hidden_size": 96, "mlp_dim": 128, "num_heads": 4},
    {"architecture": "monai_unetr", "input_size": [16, 32, 48], "norm": "instance", "feature_size": 8},
    {"architecture": "monai_swin_unetr", "feature_size": 12},
    {"architecture": "monai_swin_unetr", "out_channels": 3, "dropout": 0.1, "use_checkpoint": True},
    {"architecture": "rsunet"},
    {"architecture": "rsunet", "filters": [4, 6, 8], "rsunet_norm": "group", "rsunet_num_groups": 4},
    {"architecture": "rsunet", "filters": [4, 6], "rsunet_activation": "prelu", "rsunet_act_init": 0.1},
    {"architecture": "rsunet", "filters": [4, 6, 8, 8], "deep_supervision": True, "rsunet_norm": "instance"},
    {"architecture": "rsunet", "filters": [4, 6], "rsunet_down_factors": [[2, 2, 2]], "rsunet_norm": "none"},
    {"architecture": "rsunet_iso", "filters": [4, 6, 8], "in_channels": 2, "rsunet_activation": "leakyrelu"},
]


@pytest.mark.parametrize("model", VARIANTS, ids=lambda model: str(model["architecture"]))
def test_flat_configurations_build_the_network_of_pytc(model: dict[str, Any]) -> None:
    assert_is_pytc(build_model({"model": model}), model)


@pytest.mark.parametrize("layout", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("architecture", pytc_architectures())
def test_a_configuration_with_every_key_at_its_default_builds_every_architecture(
    layout: Layout, architecture: str
) -> None:
    changes: dict[str, Any] = {layout.architecture: architecture}
    if architecture == "monai_swin_unetr":
        changes[layout.settings(architecture)["feature_size"]] = 48
    if architecture == "monai_unetr":
        changes["input_size"] = [32, 32, 32]
    model = full(layout, changes)
    assert_is_pytc(build_model({"model": model}), model)


@pytest.mark.parametrize("name", TUTORIALS["flat"])
def test_flat_tutorials_build_unchanged(name: str) -> None:
    model = TUTORIALS["flat"][name]
    assert_is_pytc(build_model({"model": model}), model)


NESTED_REFUSALS = {
    "mitoEM/common": r"model\.heads is .*, which 'mednext' does not follow \(no architecture does here\)",
    "syn_cremi": r"model\.monai\.filters is \[32, 64, 96, 128, 160\], which 'rsunet' .* would\): remove what",
}


@pytest.mark.parametrize("name", sorted(TUTORIALS["nested"].keys() - NESTED_REFUSALS))
def test_nested_tutorials_build_unchanged(name: str) -> None:
    model = TUTORIALS["nested"][name]
    resolved = {"mednext_s": "mednext", "monai_unet": "monai_unet"}
    if profile := model["arch"].get("profile"):
        filled = {"arch": {"type": resolved[profile]}}
        filled |= {"monai": model["monai"] | {"filters": [32, 64, 128, 256]}} if profile == "monai_unet" else {}
    else:
        filled = {}
    assert_is_pytc(build_model({"model": model}), model | filled)


@pytest.mark.parametrize("name", NESTED_REFUSALS)
def test_nested_tutorials_with_keys_that_pytc_ignores_or_heads_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=NESTED_REFUSALS[name]):
        build_model({"model": TUTORIALS["nested"][name]})


def test_the_tutorials_are_those_that_were_written_down() -> None:
    assert len(TUTORIALS["flat"]) >= 9
    assert len(TUTORIALS["nested"]) >= 8
    assert set(NESTED_REFUSALS) < set(TUTORIALS["nested"])


@pytest.mark.parametrize("size", "SBML")
def test_mednext_sizes_are_the_models_of_the_catalogue(size: str) -> None:
    counts = {"S": 5_552_843, "B": 10_528_235, "M": 17_550_891, "L": 61_781_195}
    network: Any = build_model(
        flat(architecture="mednext", in_channels=1, out_channels=2, mednext_size=size, deep_supervision=True)
    )
    assert network.spec.name == f"mednext-{size}"
    assert count_parameters(network) == counts[size]
    assert network.checkpointing == (size in "ML")  # as in the original


@pytest.mark.parametrize(
    ("model", "arch"),
    [
        (
            {
                "architecture": "monai_basic_unet3d",
                "dropout": 0.1,
                "activation": "elu",
                "upsample": "nontrainable",
            },
            {"dropout": 0.1, "activation": "elu", "upsampling": "nontrainable"},
        ),
        (
            {"architecture": "monai_unet", "filters": [4, 8], "dropout": 0.2},
            {"dropout": 0.2, "strides": ((2, 2, 2),), "activation": "prelu"},
        ),
        (
            {"architecture": "monai_unetr", "input_size": [16, 32, 32], "hidden_size": 24, "dropout": 0.3},
            {"dropout": 0.3, "img_size": (16, 32, 32), "projection": "perceptron"},
        ),
        (
            {
                "architecture": "monai_swin_unetr",
                "feature_size": 12,
                "dropout": 0.1,
                "attn_drop_rate": 0.2,
                "dropout_path_rate": 0.3,
                "use_checkpoint": True,
            },
            {"dropout": 0.1, "attention_dropout": 0.2, "path_dropout": 0.3, "checkpointing": True},
        ),
        (
            {
                "architecture": "rsunet",
                "filters": [4, 8, 8],
                "rsunet_activation": "leakyrelu",
                "rsunet_act_negative_slope": 0.3,
                "rsunet_depth_2d": 1,
            },
            {
                "strides": ((1, 2, 2), (1, 2, 2)),
                "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
                "activation": "leakyrelu",
                "negative_slope": 0.3,
            },
        ),
        (
            {"architecture": "rsunet", "filters": [4, 8], "rsunet_activation": "prelu", "rsunet_act_init": 0.1},
            {"activation": "prelu", "initial_slope": 0.1},
        ),
        ({"architecture": "rsunet", "filters": [4, 8], "rsunet_down_factors": [[2, 2, 2]]}, {"strides": ((2, 2, 2),)}),
        ({"architecture": "rsunet_iso", "filters": [4, 8, 8]}, {"strides": ((2, 2, 2), (2, 2, 2))}),
    ],
    ids=lambda value: str(value.get("architecture", "")),
)
def test_settings_that_change_no_parameter_reach_the_network(model: dict[str, Any], arch: dict[str, Any]) -> None:
    network: Any = build_model({"model": model})
    assert {name: getattr(network.spec.arch, name) for name in arch} == arch


# What comes back


def test_build_model_gives_a_network_in_training_mode_with_spec_and_report() -> None:
    network: Any = zoo.build_model(flat(architecture="mednext", out_channels=3, mednext_size="S"))
    assert network.training
    assert network.spec.name == "mednext-S"
    assert [output.channels for output in network.spec.outputs] == [3] * 5
    assert set(network.load_report.reinitialised) == set(network.state_dict())
    assert network.spec.expect.parameters.inference == count_parameters(network)


def test_deep_supervision_gives_a_dict_in_training_and_a_tensor_in_evaluation() -> None:
    custom = {"mednext_base_channels": 2, "mednext_exp_r": 1, "mednext_block_counts": [1] * 9}
    x = torch.zeros(1, 1, 16, 32, 32)
    for deep_supervision, kind in ((True, dict), (False, Tensor)):
        network = build_model(flat(architecture="mednext_custom", deep_supervision=deep_supervision, **custom))
        assert isinstance(network(x), kind)
        assert isinstance(network.eval()(x), Tensor)
    outputs = build_model(flat(architecture="mednext_custom", deep_supervision=True, **custom))(x)
    assert list(outputs) == ["output", "ds_1", "ds_2", "ds_3", "ds_4"]


def test_the_patch_of_the_configuration_is_that_of_the_recipe() -> None:
    network: Any = build_model(flat(architecture="mednext", input_size=[32, 160, 96]))
    assert network.spec.training.patch_size == (32, 160, 96)


def test_a_patch_that_is_not_a_legal_size_is_said(caplog: pytest.LogCaptureFixture) -> None:
    network: Any = build_model(flat(architecture="mednext", input_size=[30, 160, 96]))
    assert network.spec.training.patch_size == (128, 128, 128)
    assert "model.input_size [30, 160, 96] is not a legal size of mednext-S" in caplog.text
    assert "train with patches of [32, 160, 96]" in caplog.text


# Every object that a configuration comes in


@dataclasses.dataclass(slots=True)
class ModelConfig:
    architecture: str = "mednext_custom"
    mednext_base_channels: int = 2
    mednext_kernel_size: int = 5
    mednext_block_counts: tuple[int, ...] = (1,) * 9
    loss_kwargs: list[dict[str, Any]] = dataclasses.field(default_factory=lambda: [{}, {}])


@dataclasses.dataclass
class Config:
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: str = "${unresolvable}"


CONFIG = {
    "model": dataclasses.asdict(ModelConfig()),
    "data": {"path": "${oc.env:A_VARIABLE_THAT_IS_NOT_SET}", "size": "???"},
}


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        OmegaConf.create(CONFIG),
        OmegaConf.structured(Config),
        Config(),
        SimpleNamespace(model=SimpleNamespace(**CONFIG["model"])),
        argparse.Namespace(model=CONFIG["model"]),
        {"model": OmegaConf.create(CONFIG["model"])},
    ],
    ids=["dict", "omegaconf", "structured", "dataclass", "namespace", "argparse", "mixed"],
)
def test_every_kind_of_configuration_builds_the_same_network(config: Any) -> None:
    network: Any = build_model(config)
    expected = build_model(CONFIG)
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    assert network.bottleneck[0].conv1.kernel_size == (5, 5, 5)
    assert network.stem.out_channels == 2


def test_a_configuration_is_not_changed() -> None:
    config = OmegaConf.create({"model": {"architecture": "mednext", "out_channels": "${other}"}, "other": 4})
    before = OmegaConf.to_yaml(config)
    network: Any = build_model(config)
    assert OmegaConf.to_yaml(config) == before
    assert network.spec.outputs[0].channels == 4


def test_omegaconf_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['omegaconf'] = None\n"
        "import zoo\n"
        "network = zoo.build_model({'model': {'architecture': 'mednext', 'out_channels': 2}})\n"
        "print(network.spec.name)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "mednext-S", run.stderr


# The list of architectures


def test_the_architectures_are_those_of_pytc() -> None:
    assert list_architectures() == [
        "mednext",
        "mednext_custom",
        "monai_basic_unet3d",
        "monai_swin_unetr",
        "monai_unet",
        "monai_unetr",
        "rsunet",
        "rsunet_iso",
    ]


def test_the_architectures_are_printed_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    print_available_architectures()
    printed = capsys.readouterr().out
    families = ["mednext (2):", "monai (4):", "rsunet (2):"]
    assert [line for line in printed.splitlines() if line.endswith("):")] == families
    for architecture in list_architectures():
        assert f"  - {architecture} " in printed
    assert "mednext-L-k5" in printed
    assert "Total: 8 architectures" in printed


def test_mednext_blocks_are_the_ones_that_the_keys_describe() -> None:
    network = build_model(
        flat(architecture="mednext_custom", mednext_base_channels=2, mednext_kernel_size=7, mednext_do_res=False)
    )
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert {block.conv1.kernel_size for block in blocks} == {(7, 7, 7)}
    assert {block.residual for block in blocks if block.resample == "none"} == {False}
    assert {block.residual for block in blocks if block.resample != "none"} == {True}
