"""Builder of the U-Net of local shape descriptors (LSD), isotropic or anisotropic."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import Kernel, Stride, Width, check_length, total_stride, volume_interface, weights

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""


class Config(BuilderConfig):
    """U-Net of local shape descriptors (Sheridan et al., 2023), with convolutions that keep the size."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=6)] = (12, 60, 300, 1500)
    """Channels of each level, full resolution first."""
    last_channels: Width = 14
    """Channels that the decoder ends with, at full resolution."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=5)] = (
        (1, 3, 3),
        (1, 3, 3),
        (3, 3, 3),
    )
    """Downsampling (z, y, x) from each level to the next."""
    kernel_sizes: Annotated[tuple[Kernel, ...], Field(strict=False, min_length=2, max_length=6)] = ((3, 3, 3),) * 4
    """Kernel (z, y, x) of each level, in encoder and decoder."""
    upsampling: Literal["nearest", "deconv"] = "nearest"
    """Each voxel repeated, or a transposed convolution."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        check_length("strides", self.strides, levels - 1, f"a network of {levels} levels")
        check_length("kernel_sizes", self.kernel_sizes, levels, f"a network of {levels} levels")
        if total_stride(self.strides) == (1, 1, 1):
            raise ValueError("strides are all 1, a U-Net needs a coarser level: give one of them a 2")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        total = weights(self.channels[0], self.channels[0], self.kernel_sizes[0])
        for level, (fine, coarse) in enumerate(pairwise(self.channels)):
            out = fine if level else self.last_channels
            total += weights(fine + coarse, coarse, self.kernel_sizes[level + 1])
            total += weights(fine + coarse + out, out, self.kernel_sizes[level])
            total += weights(coarse, coarse, self.strides[level]) if self.upsampling == "deconv" else 0
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly; without norms, one voxel is enough at the bottleneck."""
    return volume_interface(config.strides, two_voxels=False)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The way down."""
    return ("unet.l_conv",)


def untold(config: Config) -> tuple[str, ...]:
    """Neither pooling nor repeated voxels have tensors; a transposed convolution has, which tell the strides."""
    return ("strides",) if config.upsampling == "nearest" else ()


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return our own network; it has one output, with and without `deep_supervision`."""
    from zoo.builders.nets.lsd_unet import LSDUNet

    return LSDUNet(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=config.channels,
        last_channels=config.last_channels,
        strides=config.strides,
        kernel_sizes=config.kernel_sizes,
        upsampling=config.upsampling,
    )
