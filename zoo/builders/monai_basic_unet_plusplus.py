"""Builder of MONAI's BasicUNetPlusPlus, the nested U-Net whose skip connections are U-Nets themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from zoo.builders._shared import (
    Activation,
    Groups,
    Norm,
    Probability,
    Upsampling,
    Width,
    check_groups,
    monai_norm,
    needs_two_voxels,
    untold_activation,
    untold_norm,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

HALVINGS = 4

LEVELS = 6
"""Entries of `channels`."""

SUPERVISED = 3
"""Outputs beside the last one: of the U-Nets of depth 3, 2 and 1 that lie in the whole one."""


class Config(BuilderConfig):
    """BasicUNetPlusPlus (UNet++, Zhou et al., 2018), as MONAI builds it."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=LEVELS, max_length=LEVELS)] = (
        32,
        32,
        64,
        128,
        256,
        32,
    )
    """Channels of the five levels, full resolution first, and of the last decoder block (full resolution again)."""
    norm: Norm = "instance"
    """Normalisation after each convolution; `instance` has a learned scale here."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide all channels."""
    activation: Activation = "leakyrelu"
    """Activation after each norm; `leakyrelu` has the slope 0.1 here, MONAI's for this network."""
    upsampling: Upsampling = "deconv"
    """How the decoder doubles the resolution."""
    dropout: Probability = 0.0
    """Dropout after each norm, in training."""
    spatial_dims: Literal[2, 3] = 3
    """2 for images, 3 for volumes."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        check_groups(self.norm, self.num_groups, self.channels)
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions: each level has a node for each level below it, joined to all before it."""
        *levels, last = self.channels
        total = weights(levels[0], levels[0])
        for fine, coarse in pairwise(levels):
            total += weights(fine + coarse, coarse)
        for level, (fine, coarse) in enumerate(pairwise(levels)):
            above = coarse if level == 0 else coarse // 2
            for joined in range(1, HALVINGS - level + 1):
                width = last if (level, joined) == (0, HALVINGS) else fine
                total += weights(coarse, above, (2, 2, 2)) + weights(joined * fine + above + width, width)
        return total


def interface(config: Config) -> Interface:
    """Any size whose bottleneck is not empty is legal: MONAI pads where a size was odd before its halving.

    All outputs have full resolution, and count alike, as in the paper.
    """
    dims = config.spatial_dims
    rule = volume_interface(
        [(2,) * dims] * HALVINGS,
        two_voxels=needs_two_voxels(config.norm, config.num_groups, [config.channels[HALVINGS]]),
    )
    names = ("output", *(f"ds_{index}" for index in range(1, SUPERVISED + 1)))
    return rule._replace(step=(1,) * dims, outputs=tuple(OutputGeometry(name, (1,) * dims, 1.0) for name in names))


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The first convolutions and four levels."""
    return tuple(f"conv_{level}_0" for level in range(HALVINGS + 1))


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own."""
    return (*untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network under our contract for outputs; without `deep_supervision` it has the last head only."""
    from zoo.builders.nets.monai_supervised import SupervisedBasicUNetPlusPlus

    slope = ("leakyrelu", {"negative_slope": 0.1, "inplace": True})
    affine = ("instance", {"affine": True})
    network = SupervisedBasicUNetPlusPlus(
        spatial_dims=config.spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        features=config.channels,
        deep_supervision=deep_supervision,
        act=slope if config.activation == "leakyrelu" else config.activation,
        norm=affine if config.norm == "instance" else monai_norm(config.norm, config.num_groups),
        dropout=config.dropout,
        upsample=config.upsampling,
    )
    if not deep_supervision:
        network.keep_the_last_head()
    return network
