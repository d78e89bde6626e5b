"""nnU-Net's own networks, for comparison with ours, and small architectures that have every option somewhere."""

from __future__ import annotations

import pydoc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

_THREE_LEVELS: dict[str, Any] = {
    "channels": [4, 6, 6],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 2, 2], [2, 2, 2]],
    "encoder_blocks": [1, 2, 1],
    "decoder_blocks": [2, 1],
}
RESIDUAL = _THREE_LEVELS | {"encoder": "residual"}
PLAIN = _THREE_LEVELS | {"encoder": "plain"}
BOTTLENECK = RESIDUAL | {"bottleneck_channels": [2, 3, 2], "stem_channels": 3, "norm": "batch", "activation": "relu"}
PLANAR: dict[str, Any] = RESIDUAL | {"kernel_sizes": [[3, 3]] * 3, "strides": [[2, 2]] * 2, "norm_epsilon": 0.01}
TINY = [
    RESIDUAL,
    PLAIN | {"activation_first": True, "norm_affine": False, "activation": "swish"},
    PLAIN | {"norm": "none", "activation": "gelu", "negative_slope": 0.01},
    BOTTLENECK | {"bias": False},
    PLANAR | {"negative_slope": 0.3, "dropout": 0.25},
]

_ACTIVATIONS = {"leakyrelu": nn.LeakyReLU, "relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU}


def original_unet(arch: dict[str, Any], *, deep_supervision: bool = False) -> Any:
    """Return the original's network for `arch`, which our builder takes, with one input and two output channels."""
    reason = "dynamic-network-architectures is not installed, the networks cannot be compared with the original's"
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet", reason=reason)
    residual = pytest.importorskip("dynamic_network_architectures.building_blocks.residual", reason=reason)
    dims = len(arch["kernel_sizes"][0])
    layer = {name: getattr(nn, f"{name}{dims}d") for name in ("Conv", "InstanceNorm", "BatchNorm", "Dropout")}
    norm = arch.get("norm", "instance")
    activation = arch.get("activation", "leakyrelu")
    shared: dict[str, Any] = {
        "input_channels": 1,
        "num_classes": 2,
        "n_stages": len(arch["channels"]),
        "features_per_stage": arch["channels"],
        "conv_op": layer["Conv"],
        "kernel_sizes": arch["kernel_sizes"],
        "strides": [[1] * dims, *arch["strides"]],
        "n_conv_per_stage_decoder": arch["decoder_blocks"],
        "conv_bias": arch.get("bias", True),
        "norm_op": {"instance": layer["InstanceNorm"], "batch": layer["BatchNorm"], "none": None}[norm],
        "norm_op_kwargs": {"eps": arch.get("norm_epsilon", 1e-5), "affine": arch.get("norm_affine", True)},
        "nonlin": _ACTIVATIONS[activation],
        "nonlin_kwargs": {"negative_slope": arch.get("negative_slope", 0.01)} if activation == "leakyrelu" else {},
        "dropout_op": layer["Dropout"] if "dropout" in arch else None,
        "dropout_op_kwargs": {"p": arch["dropout"]} if "dropout" in arch else None,
        "deep_supervision": deep_supervision,
    }
    if arch["encoder"] == "plain":
        return unet.PlainConvUNet(
            n_conv_per_stage=arch["encoder_blocks"], nonlin_first=arch.get("activation_first", False), **shared
        )
    widths = arch.get("bottleneck_channels")
    return unet.ResidualEncoderUNet(
        n_blocks_per_stage=arch["encoder_blocks"],
        block=residual.BasicBlockD if widths is None else residual.BottleneckD,
        bottleneck_channels=widths,
        stem_channels=arch.get("stem_channels"),
        **shared,
    )


def network_from_plans(architecture: dict[str, Any], *, inputs: int, outputs: int, deep_supervision: bool) -> Any:
    """Return the original network as `get_network_from_plans` of nnU-Net 2.8.1 makes it of the plans' architecture."""
    original_unet(RESIDUAL)  # skips where the package is not installed
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = pydoc.locate(arguments[name])
    network: Any = pydoc.locate(architecture["network_class_name"])
    arguments["deep_supervision"] = deep_supervision
    return network(input_channels=inputs, num_classes=outputs, **arguments)


def plans(architecture: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return plans of the one configuration `3d_fullres`, as nnU-Net's planners write them, as far as it is read."""
    return {
        "dataset_name": "Dataset042_Mito",
        "plans_name": "nnUNetResEncUNetMPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "patch_size": [8, 16, 16],
                "batch_size": 3,
                "spacing": [40.0, 8.0, 8.0],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "architecture": architecture,
                **more,
            }
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 99.5, "std": 12.25, "percentile_00_5": 20.0, "percentile_99_5": 210.0}
        },
    }


DATASET = {"channel_names": {"0": "EM"}, "labels": {"background": 0, "mito": 1}, "file_ending": ".tif"}


def checkpoint(network: nn.Module, init_args: dict[str, Any]) -> dict[str, Any]:
    """Return what `nnUNetTrainer.save_checkpoint` hands to `torch.save`."""
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.5)]]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {"fold": 0, "device": torch.device("cuda"), **init_args},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
