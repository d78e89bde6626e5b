"""Builder of MONAI's BasicUNet, the plain five-level U-Net."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from connectomics_zoo.schema.pytc import PytcArchitecture, PytcRequest
from zoo.builders import _pytc
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


class Config(BuilderConfig):
    """BasicUNet (Falk et al., 2019), as MONAI builds it."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=LEVELS, max_length=LEVELS)] = (
        32,
        32,
        64,
        128,
        256,
        32,
    )
    """Channels of the five levels, full resolution first, and of the last decoder block (full resolution again)."""
    norm: Norm = "batch"
    """Normalisation after each convolution."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide all channels."""
    activation: Activation = "relu"
    """Activation after each norm."""
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
        """Weights of the convolutions."""
        *levels, last = self.channels
        total = weights(levels[0], levels[0]) + weights(levels[0] + levels[1] + last, last)
        for fine, coarse in pairwise(levels):
            total += weights(fine + coarse, coarse) + weights(coarse, coarse, (2, 2, 2))
        for fine, coarse in pairwise(levels[1:]):
            total += weights(2 * fine + coarse // 2, fine)
        return total


def interface(config: Config) -> Interface:
    """Any size whose bottleneck is not empty is legal: MONAI pads where a size was odd before its halving."""
    rule = volume_interface(
        [(2,) * config.spatial_dims] * HALVINGS,
        two_voxels=needs_two_voxels(config.norm, config.num_groups, [config.channels[HALVINGS]]),
    )
    return rule._replace(step=(1,) * config.spatial_dims)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The first convolutions and four levels."""
    return ("conv_0", *(f"down_{level}" for level in range(1, 5)))


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own."""
    return (*untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`."""
    from monai.networks.nets.basic_unet import BasicUNet

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    network: nn.Module = BasicUNet(**arguments)
    return network


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data."""
    return "BasicUNet", {
        "spatial_dims": config.spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "features": config.channels,
        "act": config.activation,
        "norm": monai_norm(config.norm, config.num_groups),
        "dropout": config.dropout,
        "upsample": config.upsampling,
    }


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    settings = request.settings
    channels = list(request.whole_numbers("filters"))
    if len(channels) > LEVELS:
        raise request.refuse("filters", f"this network has {LEVELS}: leave out what is more")
    while len(channels) < LEVELS:  # the generations differ in what they fill in
        channels.append(channels[-1] * 2 if request.generation == "flat" else channels[-1])
    arch = {
        "channels": channels,
        "activation": settings["activation"],
        "upsampling": settings["upsample_mode"],
        "dropout": settings["dropout"],
        "spatial_dims": _pytc.spatial_dims(request),
        **_pytc.norm(request),
    }
    return "monai_basic_unet3d", arch


PYTC = (
    PytcArchitecture(
        name="monai_basic_unet3d",
        models=("monai_basic_unet3d",),
        sections=_pytc.MONAI,
        settings=("filters", "dropout", "activation", "norm", "num_groups", "upsample_mode", "spatial_dims"),
        translate=_from_pytc,
        needs=_pytc.GROUPS,
    ),
)
