"""What PyTorch Connectomics (PyTC) builds from a configuration: the oracle of test_compat.py.

This is PyTC's own mapping from keys to arguments (models/arch/*_models.py, models/architectures/*_models.py at the
commits that connectomics_zoo/schema/pytc.py names), with the defaults of its dataclass where a key is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets import UNETR, BasicUNet, SwinUNETR, UNet
from torch import nn

from connectomics_zoo.compat.layouts import FLAT, NESTED, Layout
from connectomics_zoo.network.build import count_parameters
from connectomics_zoo.schema.builder import pytc_architectures
from zoo.builders import mednext

MEDNEXT_SIZES: dict[str, tuple[Any, list[int]]] = {
    "S": (2, [2] * 9),
    "B": ([2, 3, 4, 4, 4, 4, 4, 3, 2], [2] * 9),
    "M": ([2, 3, 4, 4, 4, 4, 4, 3, 2], [3, 4, 4, 4, 4, 4, 4, 4, 3]),
    "L": ([3, 4, 8, 8, 8, 8, 8, 4, 3], [3, 4, 8, 8, 8, 8, 8, 4, 3]),
}


def nested_values(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in NESTED.defaults:
            values |= nested_values(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


class PyTC:
    """The values that PyTC's builder sees, by setting, for either generation."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.layout = NESTED if "arch" in model else FLAT
        self.values = {**self.layout.defaults, **(nested_values(model) if self.layout is NESTED else model)}
        self.architecture: str = self.values[self.layout.architecture]
        if self.architecture == "monai_swin_unetr":  # 16 cannot be built; 48 is the builder's own default
            key = self.layout.settings(self.architecture)["feature_size"]
            self.values[key] = 48 if self.values[key] == 16 else self.values[key]

    def __getitem__(self, setting: str) -> Any:
        return self.values[pytc_architectures()[self.architecture].sections[self.layout.generation].keys[setting]]

    @property
    def channels(self) -> tuple[int, int]:
        return self.values["in_channels"], self.values["out_channels"]

    @property
    def deep_supervision(self) -> bool:
        return bool(self.values[self.layout.deep_supervision])


def assert_is_pytc(network: nn.Module, model: Mapping[str, Any]) -> None:
    """Check that `network` has the parameter count of PyTC's and, but for RSUNet, its keys and shapes."""
    pytc = PyTC(model)
    if pytc.architecture.startswith("rsunet"):
        assert count_parameters(network) == pytc_rsunet_count(pytc)
        return
    # SwinUNETR's constructor reads a value from a tensor, which the meta device cannot give.
    with torch.device("cpu" if pytc.architecture == "monai_swin_unetr" else "meta"):
        reference = pytc_mednext(pytc) if pytc.architecture.startswith("mednext") else pytc_monai(pytc)
    assert count_parameters(network) == count_parameters(reference)
    assert shapes(network) == shapes(reference)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def pytc_monai(pytc: PyTC) -> nn.Module:
    in_channels, out_channels = pytc.channels
    size = pytc.values["input_size"]
    if pytc.architecture == "monai_unetr":
        return UNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            img_size=size,
            feature_size=pytc["feature_size"],
            hidden_size=pytc["hidden_size"],
            mlp_dim=pytc["mlp_dim"],
            num_heads=pytc["num_heads"],
            proj_type=pytc["pos_embed"],  # so called since MONAI 1.4
            norm_name=pytc["norm"],
            dropout_rate=pytc["dropout"],
        )
    if pytc.architecture == "monai_swin_unetr":
        return SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            feature_size=pytc["feature_size"],
            use_checkpoint=pytc["use_checkpoint"],
            drop_rate=pytc["dropout"],
            attn_drop_rate=pytc["attn_drop_rate"],
            dropout_path_rate=pytc["dropout_path_rate"],
        )
    norm = ("group", {"num_groups": pytc["num_groups"]}) if pytc["norm"] == "group" else pytc["norm"]
    filters = list(pytc["filters"])
    if pytc.architecture == "monai_unet":
        channels = filters[:5] if pytc.layout is FLAT else filters
        return UNet(
            spatial_dims=len(size),
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            strides=[2] * (len(channels) - 1),
            num_res_units=pytc["num_res_units"],
            kernel_size=pytc["kernel_size"],
            norm=norm,
            dropout=pytc["dropout"],
        )
    while len(filters) < 6:
        filters.append(filters[-1] * 2 if pytc.layout is FLAT else filters[-1])
    return BasicUNet(
        spatial_dims=len(size),
        in_channels=in_channels,
        out_channels=out_channels,
        features=filters[:6],
        dropout=pytc["dropout"],
        act=pytc["activation"],
        norm=norm,
        upsample=pytc["upsample_mode"],
    )


def pytc_mednext(pytc: PyTC) -> nn.Module:
    """MedNeXt as such is compared with the original in test_mednext.py; here it is the mapping that is tested."""
    if pytc.architecture == "mednext":
        ratios, counts = MEDNEXT_SIZES[pytc["size"]]
        arch = {"kernel_size": pytc["kernel_size"], "expansion_ratios": ratios, "block_counts": counts}
    else:
        arch = {
            "base_channels": pytc["base_channels"],
            "expansion_ratios": pytc["exp_r"],
            "kernel_size": pytc["kernel_size"],
            "residual": pytc["do_res"],
            "resample_residual": pytc["do_res_up_down"],
            "block_counts": pytc["block_counts"],
            "norm": pytc["norm"],
            "grn": pytc["grn"],
        }
    config = mednext.Config.model_validate(arch | {"spatial_dims": int(pytc["dim"][0])})
    in_channels, out_channels = pytc.channels
    return mednext.build(
        config, in_channels=in_channels, out_channels=out_channels, deep_supervision=pytc.deep_supervision
    )


def pytc_rsunet_count(pytc: PyTC) -> int:
    """Parameters of PyTC's `RSUNet`, counted from its source (models/arch/rsunet.py)."""
    width = list(pytc["filters"])
    depth = len(width) - 1
    kernels = [[3, 3, 3]] * len(width)
    if pytc.architecture == "rsunet":
        shallow = min(pytc["depth_2d"], len(width))
        kernels = [pytc["kernel_2d"]] * shallow + kernels[shallow:]

    def norm_act(channels: int) -> int:
        affine = 2 * channels if pytc["norm"] in ("batch", "group") else 0
        return affine + (1 if pytc["activation"] == "prelu" else 0)

    def conv_block(before: int, after: int, kernel: list[int]) -> int:
        volume = kernel[0] * kernel[1] * kernel[2]
        return norm_act(before) + 3 * norm_act(after) + volume * (before * after + 3 * after**2)

    in_channels, out_channels = pytc.channels
    total = conv_block(in_channels, width[0], kernels[0])
    for level in range(depth):
        total += conv_block(width[level], width[level + 1], kernels[level + 1])
        total += width[level + 1] * width[level] + conv_block(width[level], width[level], kernels[level])
    total += norm_act(width[0]) + (width[0] + 1) * out_channels
    if pytc.deep_supervision:
        total += sum((width[depth - index] + 1) * out_channels for index in range(min(4, depth)))
    return total


def full(layout: Layout, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` section with every key, as PyTC's dataclass gives it; `changes` are by dotted key."""
    model: dict[str, Any] = {}
    for key, value in {**layout.defaults, **changes}.items():
        *sections, name = key.split(".") if layout is NESTED else [key]
        target = model
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return model
