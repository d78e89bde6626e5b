"""PyTorch Connectomics' keys: each is followed, refused by name, or not about the network; none is ignored."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from support.paths import REPOSITORY
from support.pytc import full

from connectomics_zoo.compat import build_model
from connectomics_zoo.compat.layouts import FLAT, NESTED, Layout, profiles
from connectomics_zoo.errors import SpecError, UnknownNameError, ZooError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.builder import pytc_architectures
from connectomics_zoo.schema.pytc import Generation
from zoo.builders import rsunet

TUTORIALS = read_yaml(REPOSITORY / "tests" / "support" / "data" / "pytc_flat.yaml")


def test_the_2d_key_that_pytc_ignores_is_honoured() -> None:
    network: Any = build_model({"model": TUTORIALS["mednext2d_cem-mitolab"]})
    assert network.spec.input.axes == "yx"
    assert network.train()(torch.zeros(2, 1, 32, 32))["output"].shape == (2, 3, 32, 32)
    assert network.spec.name == "mednext-S"


def test_the_spatial_dims_that_pytc_ignores_are_honoured_where_no_size_says_otherwise() -> None:
    network: Any = build_model({"model": {"architecture": "monai_unet", "filters": [4, 8], "spatial_dims": 2}})
    assert network.spec.input.axes == "yx"
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)


def test_strides_that_say_what_pytc_builds_are_accepted() -> None:
    for strides in (None, [2, 2]):
        build_model({"model": {"architecture": "monai_unet", "filters": [4, 8, 8], "strides": strides}})


def test_the_checkpoint_style_that_pytc_ignores_is_honoured() -> None:
    network: Any = build_model({"model": {"architecture": "mednext", "mednext_checkpoint_style": "outside_block"}})
    assert network.checkpointing


@pytest.mark.parametrize("layout", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("architecture", pytc_architectures())
def test_every_key_is_followed_or_refused_when_it_is_not_at_its_default(layout: Layout, architecture: str) -> None:
    """Each key in turn gets a value that no network has: it must be named in an error, unless it is no network's."""
    refused = 0
    for key in layout.defaults.keys() - layout.not_network - {layout.architecture}:
        with pytest.raises(ZooError) as caught:
            build_model({"model": full(layout, {layout.architecture: architecture, key: "nonsense"})})
        name = key.rpartition(".")[2].rpartition("_")[2]
        assert name in str(caught.value).lower() or architecture in str(caught.value), key
        refused += 1
    assert refused > 40


@pytest.mark.parametrize("layout", [FLAT, NESTED], ids=["flat", "nested"])
def test_keys_that_are_not_about_the_network_are_accepted(layout: Layout) -> None:
    changes: dict[str, Any] = {key: ["anything"] for key in layout.not_network}
    small = {layout.settings("mednext_custom")["base_channels"]: 2, layout.architecture: "mednext_custom"}
    network: Any = build_model({"model": full(layout, changes | small)})
    assert network.stem.out_channels == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"architecture": "mednext", "mednext_sise": "B"},
            r"unknown key model\.mednext_sise, did you mean 'mednext_size'",
        ),
        (
            {"architecture": "mednext", "kernel_size": 5},
            r"model\.kernel_size is 5, which 'mednext' does not follow \(monai_unet would\), "
            r"did you mean 'mednext_kernel_size': remove what is not meant",
        ),
        (
            {"architecture": "mednext", "mednext_grn": True},
            r"model\.mednext_grn is True, .* \(mednext_custom would\): ",
        ),
        ({"architecture": "rsunet", "norm": "group"}, r"model\.norm is 'group', .* did you mean 'rsunet_norm'"),
        (
            {"architecture": "monai_unet", "act": "elu"},
            r"model\.act is 'elu', which 'monai_unet' does not follow \(no arch",
        ),
        (
            {"architecture": "monai_unet", "deep_supervision": True},
            r"model\.deep_supervision is True, .* \(mednext, mednext_custom, rsunet, rsunet_iso would\)",
        ),
        (
            {"architecture": "mednext", "dropout": 0.5, "act": "elu"},
            r"model\.dropout is 0\.5, .*; model\.act is 'elu', .*: remove what is not meant\.$",
        ),
        ({"architecture": "mednext", "mednext_dim": "4d"}, r"model\.mednext_dim is '4d', it must be '2d' or '3d'"),
        (
            {"architecture": "mednext", "mednext_dim": "2d", "input_size": [32, 32, 64]},
            r"model\.mednext_dim is '2d', but input_size \[32, 32, 64\] has 3 axes: make them agree",
        ),
        (
            {"architecture": "mednext", "mednext_size": "XL"},
            r"model\.mednext_size is 'XL', it must be 'S', 'B', 'M' or 'L'",
        ),
        ({"architecture": "mednext", "mednext_kernel_size": 4}, r"model \(mednext\): .*kernel_size 4 is even"),
        ({"architecture": "mednext", "mednext_checkpoint_style": "inside"}, r"it must be null or 'outside_block'"),
        (
            {"architecture": "mednext_custom", "mednext_block_counts": [2] * 8},
            r"model \(mednext_custom\): .*block_counts",
        ),
        ({"architecture": "mednext", "in_channels": None}, r"model\.in_channels is None, it must be a whole number"),
        ({"architecture": "mednext", "out_channels": 0}, r"model\.out_channels is 0, it must be a whole number of at"),
        ({"architecture": "mednext", "out_channels": "???"}, r"model\.out_channels is '\?\?\?', give it a value"),
        (
            {"architecture": "mednext", "deep_supervision": "yes"},
            r"model\.deep_supervision is 'yes', it must be true or",
        ),
        ({"architecture": "mednext", "input_size": 64}, r"model\.input_size is 64, it must be a list of whole numbers"),
        (
            {"architecture": "rsunet", "rsunet_num_groups": 4},
            r"rsunet_num_groups is 4, which has no effect with norm 'bat",
        ),
        (
            {"architecture": "rsunet", "rsunet_kernel_2d": [1, 5, 5]},
            r"model\.rsunet_kernel_2d is \[1, 5, 5\], which has no effect with depth_2d 0: remove it",
        ),
        (
            {"architecture": "rsunet", "rsunet_depth_2d": 9},
            r"rsunet_depth_2d is 9, but there are 5 levels: give at most",
        ),
        (
            {"architecture": "rsunet", "rsunet_depth_2d": -1},
            r"rsunet_depth_2d is -1, it must be a whole number of at le",
        ),
        (
            {"architecture": "rsunet", "rsunet_act_init": 0.5},
            r"act_init is 0\.5, which has no effect with activation 're",
        ),
        (
            {"architecture": "rsunet", "input_size": [64, 64]},
            r"input_size is \[64, 64\], and 'rsunet' is a 3-D network",
        ),
        (
            {"architecture": "monai_unetr", "input_size": [64, 64]},
            r"and 'monai_unetr' is a 3-D network: give three axes",
        ),
        (
            {"architecture": "monai_unetr", "input_size": [60, 64, 64]},
            r"model \(monai_unetr\): .*img_size.*multiple of 16",
        ),
        ({"architecture": "monai_swin_unetr", "feature_size": 16}, r"model \(monai_swin_unetr\): .*multiple of 12"),
        (
            {"architecture": "rsunet_iso", "filters": [4, 8], "rsunet_down_factors": [[1, 2, 2]]},
            r"rsunet_down_factors is \[\[1, 2, 2\]\], this architecture has \[\[2, 2, 2\]\]: remove it, or choose",
        ),
        (
            {"architecture": "rsunet_iso", "rsunet_depth_2d": 1},
            r"rsunet_depth_2d is 1, .* 'rsunet_iso' .* \(rsunet would",
        ),
        (
            {"architecture": "monai_unet", "strides": [2, 2, 2, 1]},
            r"model\.strides is \[2, 2, 2, 1\], PyTC builds \[2, 2, 2, 2\] whatever it says: write that, or null",
        ),
        (
            {"architecture": "monai_unet", "filters": [8] * 6},
            r"filters is .*, PyTC takes the first 5: leave out what is",
        ),
        (
            {"architecture": "monai_basic_unet3d", "filters": [8] * 7},
            r"filters is .*, this network has 6: leave out what",
        ),
        (
            {"architecture": "monai_unet", "filters": "wide"},
            r"model\.filters is 'wide', it must be a list of whole numbers",
        ),
        (
            {"architecture": "monai_unet", "num_groups": 4},
            r"model\.num_groups is 4, which has no effect with norm 'batch'",
        ),
        (
            {"architecture": "monai_unet", "spatial_dims": 2, "input_size": [64, 64, 64]},
            r"model\.spatial_dims is 2, and input_size \[64, 64, 64\]: make them agree on 2 or 3 axes",
        ),
        (
            {"architecture": "monai_unet", "input_size": [64]},
            r"model\.spatial_dims is 3, and input_size \[64\]: make them",
        ),
        ({"architecture": "mednxt"}, r"unknown architecture 'mednxt', did you mean 'mednext'"),
        ({"architecture": ["mednext"]}, r"model\.architecture is \['mednext'\], it must be one of mednext, "),
        ({"architecture": "nnunet"}, r"'nnunet' is not built here \(.*pickled.*\), there are mednext, "),
        (
            {"mednext_size": "S"},
            r"model has no 'architecture', give one of mednext, mednext_custom, monai_basic_unet3d",
        ),
        ({"architecture": "mednext", "arch": {"type": "mednext"}}, "both 'architecture' and 'arch'.*: keep one"),
        (
            {"arch": {"type": "mednext"}, "deep_supervision": True},
            r"model\.deep_supervision, did you mean 'loss\.deep_su",
        ),
        (
            {"arch": {"type": "mednext"}, "mednext": {"sise": "S"}},
            r"model\.mednext\.sise, did you mean 'mednext\.size'",
        ),
        ({"arch": {"profile": "mine"}}, r"unknown model\.arch\.profile 'mine' \(known are mednext_s, "),
        ({"arch": {"profile": "rsunet", "type": "mednext"}}, r"profile 'rsunet' is not of type 'mednext', keep one"),
        ({"arch": {}}, r"model has no 'arch\.type', give one of mednext"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_in_one_sentence(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        build_model({"model": model})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"system": {}, "data": {}}, r"no 'model' \(it has system, data\), give the whole resolved configuration"),
        ({"architecture": "mednext"}, r"no 'model' \(it has architecture\)"),
        (None, r"no 'model' \(it is NoneType\)"),
        ("mednext-S", r"no 'model' \(it is str\)"),
        (OmegaConf.create({"default": {}}), r"no 'model' \(it has default\)"),
        ({"model": "mednext"}, "model is 'mednext', it must be a section"),
        (OmegaConf.create({"model": {"architecture": "${gone}"}}), "gone.*, resolve the configuration first"),
        (OmegaConf.create({"model": "${gone}"}), "gone.*, resolve the configuration first"),
        (OmegaConf.create({"model": "???"}), "model: Missing mandatory value: model, resolve the configuration first"),
        (OmegaConf.create([{"model": {}}]), r"no 'model'"),
    ],
)
def test_configurations_without_a_model_are_refused(config: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_model(config)


def test_an_unknown_architecture_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        build_model({"model": {"architecture": "unet"}})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"architecture": "mednext_custom", "mednext_base_channels": 2},
            "model.mednext_kernel_size is absent: 3 is taken, as PyTorch Connectomics does for a configuration file; "
            "its builder alone would take 7",
        ),
        ({"architecture": "rsunet"}, "model.filters is absent: [32, 64, 128, 256, 512] is taken"),
        ({"architecture": "monai_unetr", "input_size": [32, 32, 32]}, "model.norm is absent: 'batch' is taken"),
    ],
)
def test_where_pytc_has_two_defaults_the_choice_is_said(
    model: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        build_model({"model": model})
    assert message in caplog.text


def test_nothing_is_said_about_a_complete_configuration(caplog: pytest.LogCaptureFixture) -> None:
    build_model({"model": full(FLAT, {"architecture": "mednext_custom", "mednext_base_channels": 2})})
    assert caplog.text == ""


def test_of_an_architecture_that_two_builders_declare_the_first_one_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = pytc_architectures()["mednext"]
    monkeypatch.setattr(rsunet, "PYTC", (*rsunet.PYTC, replace(first)))
    pytc_architectures.cache_clear()
    assert pytc_architectures()["mednext"] is first
    assert (
        "two builders declare PyTorch Connectomics' 'mednext', that of zoo.builders.rsunet is left out: uninstall one."
        in caplog.text
    )


@pytest.mark.parametrize("generation", ["flat", "nested"])
def test_settings_that_share_a_key_have_one_default(generation: Generation) -> None:
    defaults: dict[str, Any] = {}
    for architecture in pytc_architectures().values():
        keys, own = architecture.sections[generation]
        for setting, default in own.items():
            assert defaults.setdefault(keys[setting], default) == default, keys[setting]
    assert len(defaults) > 30


@pytest.mark.parametrize(
    "architecture", [{"architecture": "rsunet"}, {"arch": {"type": "rsunet"}}], ids=["flat", "nested"]
)
def test_losses_and_weights_beside_the_networks_keys_are_not_the_networks(
    architecture: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    beside = {
        "losses": [{"function": "DiceLoss", "weight": 1.0}],
        "loss_terms": [{"loss_index": 0, "pred_slice": [0, 1]}],
        "loss_balancing": {"strategy": "gradnorm", "gradnorm_alpha": 0.5},
        "external_weights_path": "outputs/run/last.ckpt",
        "external_weights_key_prefix": "model.model.",
    }
    plain: Any = build_model({"model": architecture})
    assert "is not read" not in caplog.text
    network: Any = build_model({"model": architecture | beside})
    assert network.spec == plain.spec
    assert "model.external_weights_path 'outputs/run/last.ckpt' is not read: the network is fresh; make" in caplog.text


def test_a_profile_that_pytc_has_resolved_builds_what_it_builds_unresolved() -> None:
    changes = {"norm": "batch", "activation": "elu"}
    unresolved: Any = build_model({"model": {"arch": {"profile": "rsunet"}, "rsunet": changes}})
    profile = {key.partition(".")[2]: value for key, value in profiles()["rsunet"].items() if key.startswith("rsunet.")}
    for arch in ({"type": "rsunet"}, {"type": "rsunet", "profile": "rsunet"}):
        resolved: Any = build_model({"model": {"arch": arch, "rsunet": profile | changes}})
        assert resolved.spec == unresolved.spec
    with pytest.raises(SpecError, match=r"model.rsunet.num_groups is 2, which has no effect with norm 'batch'"):
        build_model({"model": {"arch": {"type": "rsunet"}, "rsunet": {"num_groups": 2}}})


def test_no_hint_builds_another_network_than_the_profile_does() -> None:
    model = {"arch": {"profile": "rsunet"}, "monai": {"filters": [32, 64]}}
    with pytest.raises(SpecError) as caught:
        build_model({"model": model})
    assert "did you mean" not in str(caught.value)
    with pytest.raises(SpecError, match=r"did you mean 'rsunet\.width'"):
        build_model({"model": {"arch": {"type": "rsunet"}, "monai": {"filters": [32, 64]}}})


def test_networks_in_nnunets_checkpoints_are_refused_as_what_they_are() -> None:
    model = {"architecture": "nnunet_2d_pretrained", "nnunet_checkpoint": "a.pth"}
    with pytest.raises(UnknownNameError, match=r"'nnunet_2d_pretrained' is not built here .*no pickle is loaded here"):
        build_model({"model": model})
