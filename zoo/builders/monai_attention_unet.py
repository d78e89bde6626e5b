"""Builder of MONAI's AttentionUnet, a U-Net whose skip connections are gated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import (
    Kernel,
    Probability,
    Stride,
    Width,
    check_length,
    nested_encoder,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""


class Config(BuilderConfig):
    """Attention U-Net (Oktay et al., 2018), as MONAI builds it: batch norm and ReLU."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=8)] = (
        16,
        32,
        64,
        128,
        256,
    )
    """Channels of each level, full resolution first."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=7)] = ((2, 2, 2),) * 4
    """Downsampling (z, y, x) from each level to the next."""
    kernel_size: Kernel = (3, 3, 3)
    """Kernel (z, y, x) of the convolutions."""
    up_kernel_size: Kernel = (3, 3, 3)
    """Kernel (z, y, x) of the transposed convolutions."""
    dropout: Probability = 0.0
    """Dropout after each norm, in training."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        check_length("strides", self.strides, levels - 1, f"a network of {levels} levels")
        if any(width < 2 for width in self.channels):
            raise ValueError("channels has a 1, a gate halves its channels: give at least 2")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        total = weights(self.channels[0], self.channels[0], self.kernel_size)
        for fine, coarse in zip(self.channels, self.channels[1:], strict=False):
            total += weights(fine + coarse, coarse, self.kernel_size) + weights(2 * fine, fine)
            total += weights(coarse, fine, self.up_kernel_size)
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly, or the skip connections do not fit."""
    return volume_interface(config.strides, two_voxels=True)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The levels down to the bottleneck, which MONAI nests."""
    return nested_encoder(len(config.channels))


def untold(config: Config) -> tuple[str, ...]:
    """A stride leaves no trace in a kernel."""
    return ("strides",)


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`."""
    from monai.networks.nets.attentionunet import AttentionUnet

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    network: nn.Module = AttentionUnet(**arguments)
    return network


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data."""
    return "AttentionUnet", {
        "spatial_dims": 3,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": config.channels,
        "strides": config.strides,
        "kernel_size": config.kernel_size,
        "up_kernel_size": config.up_kernel_size,
        "dropout": config.dropout,
    }
