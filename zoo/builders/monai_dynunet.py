"""Builder of MONAI's DynUNet, the U-Net of nnU-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import (
    Activation,
    Groups,
    Kernel,
    Norm,
    Stride,
    Width,
    at_bottleneck,
    check_groups,
    check_length,
    needs_two_voxels,
    untold_activation,
    untold_norm,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

_LEAKY = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})
"""MONAI's default for this network."""


class Config(BuilderConfig):
    """DynUNet (the network of nnU-Net, Isensee et al., 2021), as MONAI builds it."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=3, max_length=8)] = (
        32,
        64,
        128,
        256,
        320,
    )
    """Channels of each level, full resolution first."""
    kernel_sizes: Annotated[tuple[Kernel, ...], Field(strict=False, min_length=3, max_length=8)] = ((3, 3, 3),) * 5
    """Kernel (z, y, x) of each level."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=2, max_length=7)] = ((2, 2, 2),) * 4
    """Downsampling (z, y, x) from each level to the next."""
    supervised_levels: Annotated[int, Field(ge=0, le=6)] = 3
    """Levels below full resolution that have an output of their own, the finest first; never the two coarsest."""
    residual: bool = False
    """Residual blocks in the encoder instead of plain ones."""
    norm: Norm = "instance"
    """Normalisation after each convolution; `instance` has a learned scale here, as in nnU-Net."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide all channels."""
    activation: Activation = "leakyrelu"
    """Activation after each norm."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        check_length("kernel_sizes", self.kernel_sizes, levels, f"a network of {levels} levels")
        check_length("strides", self.strides, levels - 1, f"a network of {levels} levels")
        if self.supervised_levels > levels - 2:
            raise ValueError(
                f"supervised_levels {self.supervised_levels} is too many, {levels} levels allow at most {levels - 2}"
            )
        for level, (kernel, stride) in enumerate(zip(self.kernel_sizes[1:], self.strides, strict=True), start=1):
            if any(edge + 1 < step for edge, step in zip(kernel, stride, strict=True)):
                raise ValueError(f"stride {list(stride)} skips voxels under kernel {list(kernel)} of level {level}")
            if self.residual and max(stride) > 2:
                raise ValueError(f"residual blocks take strides up to 2 and level {level} has {list(stride)}")
        check_groups(self.norm, self.num_groups, self.channels)
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        total = weights(self.channels[0], self.channels[0], self.kernel_sizes[0])
        for level, (fine, coarse) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            kernel = self.kernel_sizes[level + 1]
            total += weights(fine + coarse, coarse, kernel) + weights(3 * fine, fine, kernel)
            total += weights(coarse, fine, self.strides[level])
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly, or the skip connections do not fit."""
    widths = at_bottleneck(config.channels, config.strides)
    return volume_interface(
        config.strides,
        two_voxels=needs_two_voxels(config.norm, config.num_groups, widths),
        supervised=range(1, config.supervised_levels + 1),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The levels down to the bottleneck."""
    return ("input_block", "downsamples", "bottleneck")


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own."""
    return (*untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network under our contract for outputs; without `deep_supervision` it has the last head only."""
    from zoo.builders.nets.monai_supervised import SupervisedDynUNet

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    return SupervisedDynUNet(
        **arguments
        | {
            "deep_supervision": deep_supervision and config.supervised_levels > 0,
            "deep_supr_num": max(config.supervised_levels, 1),
        }
    )


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data, without deep supervision."""
    norms: dict[str, Any] = {
        "batch": "batch",
        "instance": ("instance", {"affine": True}),
        "group": ("group", {"num_groups": config.num_groups}),
    }
    return "DynUNet", {
        "spatial_dims": 3,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": config.kernel_sizes,
        "strides": ((1, 1, 1), *config.strides),
        "upsample_kernel_size": config.strides,
        "filters": config.channels,
        "norm_name": norms[config.norm],
        "act_name": _LEAKY if config.activation == "leakyrelu" else config.activation,
        "deep_supervision": False,
        "res_block": config.residual,
    }
