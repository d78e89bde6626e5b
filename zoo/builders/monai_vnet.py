"""Builder of MONAI's VNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.builder import BuilderConfig, Interface
from zoo.builders._shared import Activation, Probability, untold_activation, volume_interface

if TYPE_CHECKING:
    from torch import nn

BASE_CHANNELS = 16
"""Channels at full resolution, fixed by the architecture."""


class Config(BuilderConfig):
    """V-Net (Milletari et al., 2016), as MONAI builds it: fixed widths, 5 x 5 x 5 kernels, batch norm."""

    activation: Activation = "elu"
    """Activation: ELU is MONAI's default, PReLU (one slope a channel) the paper's."""
    dropout: Probability = 0.5
    """Dropout of whole channels in the two coarsest levels and in all skip connections, in training."""


def interface(config: Config) -> Interface:
    """Four halvings."""
    return volume_interface([(2, 2, 2)] * 4, two_voxels=True)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The input transition and the downsamplings."""
    return ("in_tr", *(f"down_tr{width}" for width in (32, 64, 128, 256)))


def untold(config: Config) -> tuple[str, ...]:
    """Only PReLU has tensors."""
    return untold_activation(config.activation)


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`.

    Raises:
        SpecError: the input's channels do not divide 16, as the first residual connection needs.
    """
    if BASE_CHANNELS % in_channels:
        raise SpecError(
            f"V-Net repeats its input up to {BASE_CHANNELS} channels and cannot do so with {in_channels}, "
            "give it 1, 2, 4, 8 or 16 input channels."
        )
    from monai.networks.nets.vnet import VNet
    from torch import nn

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    network: nn.Module = VNet(**arguments)
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):  # not by MONAI's arguments, which leave two of them at 0.5
            module.p = config.dropout
    return network


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data; dropout is not among them."""
    return "VNet", {
        "spatial_dims": 3,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "act": ("elu", {"inplace": True}) if config.activation == "elu" else config.activation,
    }
