"""Checkpoints of nnU-Net v2: the network of their plans, exactly; the rest of the plans said or named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.nnunet import DATASET, checkpoint, network_from_plans, plans

import zoo
from connectomics_zoo.convert import plans as plans_module
from connectomics_zoo.convert.copies import without_copies
from connectomics_zoo.convert.pick import Picked
from connectomics_zoo.convert.plans_recipe import not_said
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import SpecError, WeightsError
from connectomics_zoo.verify.run import verify
from zoo.builders import nnunet_primus, nnunet_unet

RESIDUAL: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 6, 6],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_blocks_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
OLD_PLAIN = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 6,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
"""Of plans from before nnU-Net 2.5."""


def changed(network: str, **arguments: Any) -> dict[str, Any]:
    kwargs = {**RESIDUAL["arch_kwargs"], **arguments}
    if network == "PlainConvUNet":
        kwargs["n_conv_per_stage"] = kwargs.pop("n_blocks_per_stage")
    name = f"dynamic_network_architectures.architectures.unet.{network}"
    imported = [*RESIDUAL["_kw_requires_import"], *(["block"] if "block" in arguments else [])]
    return {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": imported}


ARCHITECTURES = {
    "residual": RESIDUAL,
    "plain": changed(
        "PlainConvUNet",
        nonlin_first=True,
        conv_bias=False,
        nonlin="torch.nn.ReLU",
        dropout_op="torch.nn.Dropout3d",
        dropout_op_kwargs={"p": 0.25, "inplace": True},
    ),
    "bottleneck": changed(
        "ResidualEncoderUNet",
        features_per_stage=6,
        kernel_sizes=3,
        n_blocks_per_stage=1,
        block="dynamic_network_architectures.building_blocks.residual.BottleneckD",
        bottleneck_channels=2,
        stem_channels=3,
        norm_op="torch.nn.modules.batchnorm.BatchNorm3d",
    ),
    "planar": changed(
        "ResidualEncoderUNet",
        conv_op="torch.nn.modules.conv.Conv2d",
        kernel_sizes=[[3, 3]] * 3,
        strides=[[1, 1], [2, 2], [2, 2]],
        norm_op="torch.nn.modules.instancenorm.InstanceNorm2d",
        norm_op_kwargs={"eps": 0.01, "affine": False},
    ),
}


def saved(path: Path, architecture: dict[str, Any], *, outputs: int = 2, **more: Any) -> Any:
    """Save a checkpoint of the original's network, whose norms have seen data, and return the network."""
    torch.manual_seed(0)
    network = network_from_plans(architecture, inputs=1, outputs=outputs, deep_supervision=False)
    dims = 2 if "2d" in architecture["arch_kwargs"]["conv_op"] else 3
    network.train()(torch.randn(2, 1, *(8, 16, 16)[-dims:]))
    patch = {"patch_size": [16, 16]} if dims == 2 else {}
    init_args = {"plans": plans(architecture, **patch, **more), "configuration": "3d_fullres", "dataset_json": DATASET}
    torch.save(checkpoint(network, init_args), path)
    return network.eval()


def computes(folder: Path, network: Any, size: tuple[int, ...] = (8, 16, 16)) -> bool:
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        return torch.equal(zoo.load(folder)(x), network(x))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_network_of_any_plans_is_converted_exactly(kind, tmp_path):
    network = saved(tmp_path / "checkpoint_final.pth", ARCHITECTURES[kind], outputs=3)
    done = convert(tmp_path / "checkpoint_final.pth", tmp_path / "out")
    assert computes(tmp_path / "out", network, (16, 16) if kind == "planar" else (8, 16, 16))
    spec = zoo.get_spec(tmp_path / "out")
    assert (spec.name, spec.version, spec.family) == ("nnunet-Dataset042_Mito-3d_fullres", "0.0.0", "nnunet")
    assert (done.format, done.input_channels, done.output_channels) == ("nnunet-v2", 1, 3)
    assert (spec.training.patch_size, spec.training.batch_size) == ((8, 16, 16)[-len(spec.input.axes) :], 3)
    state = network.state_dict()
    assert done.tensors + done.copies == len(state)
    assert done.copies > len(state) / 2
    assert done.dropped == done.absent == ()
    if kind == "plain":  # it has dropout
        assert verify([str(tmp_path / "out")], level="weights").passed


def test_batch_norm_is_taken_from_the_tensors_where_the_trainer_put_it_in(tmp_path):
    batch = changed("ResidualEncoderUNet", norm_op="torch.nn.modules.batchnorm.BatchNorm3d")
    network = saved(tmp_path / "a.pth", batch)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"] = RESIDUAL
    torch.save(content | {"trainer_name": "nnUNetTrainerBN"}, tmp_path / "b.pth")
    convert(tmp_path / "b.pth", tmp_path / "out")
    assert computes(tmp_path / "out", network)


def test_plans_may_lie_beside_the_checkpoint_and_may_be_old_and_inherit(tmp_path):
    plain = changed("PlainConvUNet", n_blocks_per_stage=2, n_conv_per_stage_decoder=2)
    fold = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres" / "fold_0"
    fold.mkdir(parents=True)
    network = saved(fold / "checkpoint_best.pth", plain)
    content = torch.load(fold / "checkpoint_best.pth", weights_only=False)
    torch.save(content | {"init_args": {}}, fold / "checkpoint_best.pth")
    with pytest.raises(WeightsError, match=r"plans are neither in the checkpoint \(init_args\) nor beside it \(plans"):
        convert(fold / "checkpoint_best.pth", tmp_path / "out")
    document = plans({})
    configurations = document["configurations"]
    del configurations["3d_fullres"]["architecture"]
    configurations["3d_fullres"] |= OLD_PLAIN
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (fold.parent / "plans.json").write_text(json.dumps(document))
    (fold.parent / "dataset.json").write_text(json.dumps(DATASET | {"labels": {"background": 0, "a": [1, 2], "b": 2}}))
    done = convert(fold / "checkpoint_best.pth", tmp_path / "out")
    assert done.model == "nnunet-Dataset042_Mito-3d_cascade_fullres@0.0.0"
    assert computes(tmp_path / "out", network)
    assert "channels, each with a sigmoid: a, b" in done.not_said
    assert any(item.startswith("the cascade: its input holds the classes that 3d_lowres") for item in done.not_said)


def test_what_the_spec_cannot_say_is_named_with_what_to_do_and_so_is_the_released_model(tmp_path, run_zoo, monkeypatch):
    saved(tmp_path / "a.pth", RESIDUAL, normalization_schemes=["CTNormalization"])
    config = nnunet_unet.Config(
        channels=(4, 6, 6),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides=((1, 2, 2), (2, 2, 2)),
        encoder_blocks=(1, 2, 1),
        decoder_blocks=(1, 1),
    )
    released = zoo.get_spec("nnunet-resenc-L").model_copy(update={"arch": config})
    monkeypatch.setattr(plans_module, "every_model", lambda: {released.name: released})
    code, out, _ = run_zoo("convert", str(tmp_path / "a.pth"), str(tmp_path / "out"))
    assert code == 0
    text = " ".join(out.split())
    for part in (
        "(the same network as nnunet-resenc-L)",
        "tensors, which nnU-Net's networks have under several names",
        "from the plans patch 8x16x16, batch size 3, weights of the scales in the loss",
        "not in the spec spacing 40, 8, 8, in the unit of the dataset",
        "CTNormalization of channel 0: grey values were clipped to 20 and 210, which --intensity-range 20,210 does",
        "mean 99.5 was subtracted and the rest divided by 12.25",
        "channels of one softmax: background, mito",
        "averaged over flips along zyx: --views flips",
    ):
        assert part in text


def test_a_scheme_of_grey_values_that_is_not_known_is_not_taken_for_another_and_wrong_axes_are_none():
    spec = zoo.get_spec("nnunet-resenc-M")
    values = {"normalization_schemes": ["NoNormalization", "AcmeNormalization"]}
    read = plans_module.Plans("3d_fullres", values, {}, DATASET, "nnUNetTrainer", mirrored=(0, -7, 2, 9))
    left, unknown, _, flips = not_said(read, spec)
    assert left.startswith("NoNormalization of channel 0: grey values were left as they are, and here become 0 to 1")
    assert unknown.startswith("AcmeNormalization of channel 1, which is none of those that are known here")
    assert "flips along zx:" in flips


def test_a_network_with_names_like_those_of_nnunet_s_copies_keeps_its_tensors():
    tensors = {"a.all_modules.0.weight": torch.ones(1), "decoder.encoder.weight": torch.ones(1)}
    picked = Picked("", averaged=False, tensors=tensors, rank=0)
    assert without_copies(picked, source="a.pth") is picked


Edit = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda kwargs: kwargs.update(norm_op="torch.nn.GroupNorm"), r"norm_op 'torch.nn.GroupNorm' is none of Inst"),
        (lambda kwargs: kwargs.update(nonlin="os.system"), r"nonlin 'os.system' is none of LeakyReLU, "),
        (lambda kwargs: kwargs.update(conv_op="builtins.eval"), r"conv_op 'builtins.eval' is neither Conv2d nor"),
        (lambda kwargs: kwargs.update(strides=[[2, 2, 2]] * 3), r"strides\[0\] \[2, 2, 2\] makes an output coarser"),
        (lambda kwargs: kwargs.update(n_stages=10**9), r"plans: arch_kwargs: n_stages: .* \(got 1000000000\)"),
        (lambda kwargs: kwargs.update(features_per_stage=[4, 6]), r"kernel_sizes has 3 entries and a network of 2"),
        (lambda kwargs: kwargs.update(norm_op_kwargs={"momentum": 0.5}), r"norm_op_kwargs.momentum 0.5 is not among"),
        (lambda kwargs: kwargs.update(squeeze=True), r"plans: arch_kwargs: squeeze: unknown key"),
        (lambda kwargs: kwargs.update(features_per_stage=[8192] * 3, n_blocks_per_stage=64), r"asks for about"),
    ],
)
def test_plans_that_ask_for_something_else_are_refused_in_a_sentence(edit: Edit, message, tmp_path):
    torch.save(broken(edit), tmp_path / "a.pth")
    with pytest.raises(SpecError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken(edit: Edit) -> dict[str, Any]:
    network = network_from_plans(RESIDUAL, inputs=1, outputs=2, deep_supervision=False)
    architecture = copy.deepcopy(RESIDUAL)
    edit(architecture["arch_kwargs"])
    return checkpoint(network, {"plans": plans(architecture), "configuration": "3d_fullres"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_size", "all", "plans: patch_size is all, it must be a list of whole numbers"),
        ("architecture", None, "plans: have no architecture"),
        ("inherits_from", "3d_lowres", "plans: have no configuration '3d_lowres'"),
        ("inherits_from", "3d_fullres", "configuration '3d_fullres' inherits from itself"),
        ("patch_size", [7, 16, 16], r"training.patch_size \[7, 16, 16\] is not a legal input size"),
    ],
)
def test_a_configuration_that_is_none_is_refused_in_a_sentence(key, value, message, tmp_path):
    content = broken(lambda _: None)
    content["init_args"]["plans"]["configurations"]["3d_fullres"][key] = value
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(SpecError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "out")


def test_a_copy_that_differs_from_what_it_is_one_of_is_refused(tmp_path):
    content = broken(lambda _: None)
    key = "decoder.encoder.stem.convs.0.all_modules.0.weight"
    content["network_weights"][key] = content["network_weights"][key] + 1
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"'{key}' is a copy of another tensor in nnU-Net's networks and here it is"):
        convert(tmp_path / "a.pth", tmp_path / "out")


def test_primus_is_known_by_its_tensors_and_its_patch(tmp_path, monkeypatch):
    monkeypatch.setitem(nnunet_primus.SIZES, (24, 2), ("S", 2))
    arch = {"img_size": [8, 8, 16], "embed_dim": 24, "depth": 2, "num_heads": 2}
    network = zoo.load("nnunet-primus-S", arch=arch, out_channels=4)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    planned = {"plans": plans(RESIDUAL, patch_size=[8, 8, 16]), "configuration": "3d_fullres"}
    content = checkpoint(torch.nn.Identity(), planned) | {"trainer_name": "nnUNet_Primus_S_Trainer"}
    torch.save(content | {"network_weights": state}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", tmp_path / "out")
    assert (done.prefix, done.output_channels) == ("module.", 4)
    assert computes(tmp_path / "out", network.eval(), (8, 8, 16))
    assert "fine-tune before use" in "\n".join(done.not_said)
    for leave_out, message in (
        (".blocks.1.", r"a Primus of 1 blocks of 24 channels, whose number of heads no tensor tells"),
        ("down_projection", r"a Primus that makes tokens by several layers \(V2, V3\), which no model here does"),
    ):
        rest = {key: value for key, value in state.items() if leave_out not in key}
        torch.save(content | {"network_weights": rest}, tmp_path / "b.pth")
        with pytest.raises(SpecError, match=message):
            convert(tmp_path / "b.pth", tmp_path / "other")
