"""Builder of the U-Nets of pytorch-3dunet: UNet3D, ResidualUNet3D and ResidualUNetSE3D."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import Groups, Probability, Width, volume_interface, weights

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""


class Config(BuilderConfig):
    """3D U-Net (Çiçek et al., 2016), as pytorch-3dunet builds it."""

    block: Literal["double", "residual", "residual-se"] = "double"
    """What levels are made of: two convolutions (UNet3D), a residual block (ResidualUNet3D), or one with squeeze and
    excitation (ResidualUNetSE3D). With residual blocks, skip connections are added and not joined."""
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=8)] = (64, 128, 256, 512)
    """Channels of each level, full resolution first; each level halves the resolution."""
    layer_order: Annotated[str, Field(pattern=r"^[gb]?c[gb]?[rle]?d?$")] = "gcr"
    """Layers of a convolution in their order, in the original's letters: c convolution, g group norm, b batch norm,
    r ReLU, l leaky ReLU, e ELU, d dropout."""
    num_groups: Groups = 8
    """Groups of letter `g`, which must divide all channels that are not fewer; one group where they are fewer."""
    upsampling: Literal["nearest", "linear", "deconv"] | None = None
    """How a decoder doubles the resolution. None is what the original chooses: `nearest` for double convolutions,
    `deconv`, the only way that they have, for residual blocks."""
    dropout: Probability = 0.1
    """Dropout of letter `d`, in training; residual blocks have the original's 0.1, and know no other."""
    spatial_dims: Literal[2, 3] = 3
    """2 for images, 3 for volumes."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        residual = self.block != "double"
        if self.layer_order.count("g") + self.layer_order.count("b") > 1:
            raise ValueError(f"layer_order {self.layer_order!r} has two norms, leave one out")
        if residual and self.upsampling not in (None, "deconv"):
            raise ValueError(f"block {self.block!r} has upsampling 'deconv' alone, leave {self.upsampling!r} out")
        if residual and self.dropout != 0.1:
            raise ValueError(f"block {self.block!r} has dropout 0.1 alone, leave {self.dropout} out")
        if self.block == "residual-se" and self.spatial_dims == 2:
            raise ValueError("block 'residual-se' is 3-D, give spatial_dims 3 or another block")
        wrong = [width for width in self.normed if width >= self.num_groups and width % self.num_groups]
        if "g" in self.layer_order and wrong:
            raise ValueError(f"num_groups {self.num_groups} does not divide {wrong[0]} channels, change either")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def normed(self) -> tuple[int, ...]:
        """The channels that norms have, but for the input's."""
        if self.block != "double" or self.layer_order.startswith("c"):
            return (*self.channels, *(width // 2 for width in self.channels if self.block == "double"))
        joined = (
            2 * fine if self.upsampling == "deconv" else fine + coarse for fine, coarse in pairwise(self.channels)
        )
        return (*self.channels, *(max(1, width // 2) for width in self.channels), *joined)

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        kernel = (3,) * self.spatial_dims
        first = self.channels[0]
        if self.block == "double":
            total = weights(first // 2, first, kernel)
            for fine, coarse in pairwise(self.channels):
                total += weights(fine, max(fine, coarse // 2), kernel) + weights(max(fine, coarse // 2), coarse, kernel)
                total += weights(fine + coarse, fine, kernel) + weights(fine, fine, kernel)
            return total
        total = 2 * weights(first, first, kernel)
        for fine, coarse in pairwise(self.channels):
            total += 2 * weights(coarse, coarse, kernel) + weights(fine, coarse, (1,))
            total += 2 * weights(fine, fine, kernel) + weights(coarse, fine, kernel)
        return total + (4 * sum(width**2 for width in self.channels) if self.block == "residual-se" else 0)


def interface(config: Config) -> Interface:
    """Any size whose bottleneck is not empty is legal: a decoder interpolates to the size of its skip connection."""
    dims, bottleneck = config.spatial_dims, config.channels[-1]
    single = "b" in config.layer_order or ("g" in config.layer_order and config.num_groups == bottleneck)
    rule = volume_interface([(2,) * dims] * (len(config.channels) - 1), two_voxels=single)
    return rule._replace(step=(1,) * dims)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The levels down to the bottleneck."""
    return ("encoders",)


def untold(config: Config) -> tuple[str, ...]:
    """Activations, and groups, have no tensors; nor have the ways of interpolating."""
    return ("layer_order", "num_groups", "upsampling")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return our own network; it has one output, with and without `deep_supervision`."""
    from zoo.builders.nets.pytorch3dunet import Layers, UNet

    return UNet(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=config.channels,
        block=config.block,
        upsampling=config.upsampling or ("nearest" if config.block == "double" else "deconv"),
        layers=Layers(
            order=config.layer_order,
            num_groups=config.num_groups,
            dropout=config.dropout,
            spatial_dims=config.spatial_dims,
        ),
    )
