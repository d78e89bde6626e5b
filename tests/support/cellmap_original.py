"""The networks of the package cellmap-models, to compare ours with."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

Arch = dict[str, Any]

TWO = [[3, 3, 3], [3, 3, 3]]


def like_the_original(
    channels: list[int], up_channels: list[int], strides: list[list[int]], upsampling: str, output_stride: list[int]
) -> Arch:
    return {
        "channels": channels,
        "up_channels": up_channels,
        "strides": strides,
        "kernel_sizes": [TWO] * len(channels),
        "up_kernel_sizes": [TWO] * len(up_channels),
        "upsampling": upsampling,
        "output_stride": output_stride,
        "head_kernel_sizes": TWO,
        "head_channels": 3,
    }


CASES = {
    "one level": like_the_original([2, 3], [3], [[1, 2, 2]], "nearest_conv", [1, 1, 1]),
    "transposed": like_the_original([2, 3, 4], [3, 3], [[1, 2, 2], [2, 2, 2]], "transposed", [1, 1, 1]),
    "another output voxel": like_the_original([2, 3, 4], [3, 3], [[1, 2, 2], [1, 3, 3]], "nearest_conv", [1, 2, 2]),
}


def original(arch: Arch) -> nn.Module:
    """The network of cellmap-models, which runs itself at a size of its own when it is made, but for that."""
    pytest.importorskip("cellmap_models", reason="cellmap-models, which needs torchvision, is not installed")
    importlib.import_module("cellmap_models.pytorch.cosem")
    module = sys.modules["cellmap_models.pytorch.cosem.load_model"]

    class Architecture(module.Architecture):
        def compute_minimal_shapes(self) -> None:
            pass

    def triples(values: Any) -> Any:
        return tuple(map(triples, values)) if isinstance(values, list) else values

    nearest = arch["upsampling"] != "transposed"
    strides = triples(arch["output_stride"])
    settings = SimpleNamespace(
        feature_widths_down=arch["channels"],
        feature_widths_up=[*arch["up_channels"], arch["channels"][-1]],
        downsample_factors=list(triples(arch["strides"])),
        constant_upsample=nearest,
        upsample_factor=tuple(map(float, strides)) if nearest else strides,
        final_kernel_size=list(triples(arch["head_kernel_sizes"])),
        final_feature_width=arch["head_channels"],
        classes_out=2,
    )
    network: nn.Module = Architecture(settings).eval()
    return network
