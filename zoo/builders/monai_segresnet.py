"""Builder of MONAI's SegResNet, the residual encoder-decoder without its autoencoder branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import (
    Activation,
    Groups,
    Norm,
    Probability,
    Upsampling,
    check_groups,
    check_length,
    monai_norm,
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

Blocks = Annotated[int, Field(ge=1, le=64)]


class Config(BuilderConfig):
    """SegResNet (Myronenko, 2018), as MONAI builds it."""

    base_channels: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels at full resolution, doubled by each downsampling."""
    encoder_block_counts: Annotated[tuple[Blocks, ...], Field(strict=False, min_length=2, max_length=8)] = (
        1,
        2,
        2,
        4,
    )
    """Residual blocks of each encoder level, full resolution first."""
    decoder_block_counts: Annotated[tuple[Blocks, ...], Field(strict=False, min_length=1, max_length=7)] = (
        1,
        1,
        1,
    )
    """Residual blocks of each decoder level, coarsest first."""
    norm: Norm = "group"
    """Normalisation before each convolution."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide `base_channels`."""
    activation: Activation = "relu"
    """Activation after each norm."""
    upsampling: Upsampling = "nontrainable"
    """How the decoder doubles the resolution."""
    dropout: Probability = 0.0
    """Dropout of whole channels after the first convolution, in training."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.encoder_block_counts)
        check_length("decoder_block_counts", self.decoder_block_counts, levels - 1, f"an encoder of {levels} levels")
        check_groups(self.norm, self.num_groups, [self.base_channels])
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the residual blocks and of the downsamplings."""
        total = 0
        for level, count in enumerate(self.encoder_block_counts):
            width = self.base_channels * 2**level
            total += 2 * count * weights(width, width) + weights(width // 2, width)
        for level, count in enumerate(reversed(self.decoder_block_counts)):
            width = self.base_channels * 2**level
            total += 2 * count * weights(width, width)
        return total


def interface(config: Config) -> Interface:
    """One halving fewer than there are encoder levels."""
    halvings = len(config.encoder_block_counts) - 1
    return volume_interface(
        [(2, 2, 2)] * halvings,
        two_voxels=needs_two_voxels(config.norm, config.num_groups, [config.base_channels * 2**halvings]),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The first convolution and the levels of the encoder."""
    return ("convInit", "down_layers")


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own."""
    return (*untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`."""
    from monai.networks.nets.segresnet import SegResNet

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    network: nn.Module = SegResNet(**arguments)
    return network


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data."""
    return "SegResNet", {
        "spatial_dims": 3,
        "init_filters": config.base_channels,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "dropout_prob": config.dropout,
        "act": config.activation,
        "norm": monai_norm(config.norm, config.num_groups),
        "blocks_down": config.encoder_block_counts,
        "blocks_up": config.decoder_block_counts,
        "upsample_mode": config.upsampling,
    }
