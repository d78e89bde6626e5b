"""Builder of nnU-Net's own U-Nets: ResidualEncoderUNet and PlainConvUNet, of any plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from connectomics_zoo.schema.plans import PlansArchitecture
from zoo.builders import _nnunet
from zoo.builders._shared import (
    Edge,
    Probability,
    Width,
    at_bottleneck,
    check_length,
    needs_two_voxels,
    total_stride,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

_MOST_LEVELS = 10

Count = Annotated[int, Field(ge=1, le=64)]
Kernel = Annotated[tuple[Edge, ...], Field(strict=False, min_length=2, max_length=3)]
Stride = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(strict=False, min_length=2, max_length=3)]


class Config(BuilderConfig):
    """A U-Net as nnU-Net plans it (Isensee et al., 2021 and 2024), in 3-D or, with kernels (y, x), in 2-D."""

    encoder: Literal["residual", "plain"] = "residual"
    """`residual`: a stem and residual blocks (ResidualEncoderUNet); `plain`: convolutions (PlainConvUNet)."""
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=_MOST_LEVELS)] = (
        *(32, 64, 128, 256, 320, 320),
    )
    """Channels of each level, full resolution first; `features_per_stage` in plans."""
    kernel_sizes: Annotated[tuple[Kernel, ...], Field(strict=False, min_length=2, max_length=_MOST_LEVELS)] = (
        (3, 3, 3),
    ) * 6
    """Kernel (z, y, x) of each level."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=_MOST_LEVELS - 1)] = (
        (2, 2, 2),
    ) * 5
    """Downsampling (z, y, x) from each level to the next; plans have a first entry of ones before these."""
    encoder_blocks: Annotated[tuple[Count, ...], Field(strict=False, min_length=2, max_length=_MOST_LEVELS)] = (
        *(1, 3, 4, 6, 6, 6),
    )
    """Residual blocks of each level (`n_blocks_per_stage` in plans), or convolutions of a plain encoder's
    (`n_conv_per_stage`)."""
    decoder_blocks: Annotated[tuple[Count, ...], Field(strict=False, min_length=1, max_length=_MOST_LEVELS - 1)] = (
        1,
    ) * 5
    """Convolutions of each level of the decoder, the coarsest first; `n_conv_per_stage_decoder` in plans."""
    bias: bool = True
    """Whether convolutions have a bias; those around blocks never do, those that give the outputs always."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation after each convolution."""
    norm_affine: bool = True
    """Whether the norm has a learned scale and shift."""
    norm_epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1.0e-5
    """What the norm adds to the variance."""
    activation: Literal["leakyrelu", "relu", "gelu", "swish"] = "leakyrelu"
    """Activation after each norm."""
    negative_slope: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Slope of activation `leakyrelu` below zero."""
    activation_first: bool = False
    """Activation before the norm; a plain encoder alone can have it."""
    dropout: Probability = 0.0
    """Probability that a channel is dropped after a convolution, in training; the last one of a residual block keeps
    all."""
    stem_channels: Width | None = None
    """Channels of a residual encoder's stem; by default, those of full resolution."""
    bottleneck_channels: (
        Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=_MOST_LEVELS)] | None
    ) = None
    """Inner channels of the blocks of each level, which makes these bottleneck blocks (1, k, 1) instead of basic ones
    (k, k); a residual encoder alone can have them."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        reason = f"a network of {levels} levels"
        check_length("kernel_sizes", self.kernel_sizes, levels, reason)
        check_length("encoder_blocks", self.encoder_blocks, levels, reason)
        check_length("strides", self.strides, levels - 1, reason)
        check_length("decoder_blocks", self.decoder_blocks, levels - 1, reason)
        if self.bottleneck_channels is not None:
            check_length("bottleneck_channels", self.bottleneck_channels, levels, reason)
        axes = {len(item) for item in (*self.kernel_sizes, *self.strides)}
        if len(axes) > 1:
            raise ValueError("kernel_sizes and strides have entries of 2 and of 3 axes, give all (z, y, x) or (y, x)")
        if self.encoder == "plain":
            for field in ("stem_channels", "bottleneck_channels"):
                if getattr(self, field) is not None:
                    raise ValueError(f"{field} has no effect with encoder 'plain', leave it out")
        elif self.activation_first:
            raise ValueError("activation_first needs encoder 'plain', a residual block has its norm first")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions, of bottleneck blocks as if they were basic ones."""
        total = 0
        for level, (width, kernel, count) in enumerate(
            zip(self.channels, self.kernel_sizes, self.encoder_blocks, strict=True)
        ):
            each = 2 if self.encoder == "residual" else 1
            inner = width if self.bottleneck_channels is None else self.bottleneck_channels[level]
            total += count * each * weights(inner, inner, kernel) + weights(width, inner, (1,)) * count
        for level, count in enumerate(reversed(self.decoder_blocks)):
            fine, coarse = self.channels[level], self.channels[level + 1]
            total += (count + 1) * weights(fine, fine, self.kernel_sizes[level])
            total += weights(coarse, fine, self.strides[level])
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly; each level of the decoder has an output, weighted as nnU-Net's loss does.

    Its weights halve from scale to scale, the coarsest counts nothing, and they sum up to 1.
    """
    widths = at_bottleneck(config.channels, config.strides)
    plain = volume_interface(config.strides, two_voxels=needs_two_voxels(config.norm, 1, widths))
    scales = len(config.strides)
    halves = [0.5**scale for scale in range(scales)]
    if scales > 1:
        halves[-1] = 0.0
    outputs = tuple(
        OutputGeometry(
            f"ds_{scale}" if scale else "output",
            total_stride(config.strides[:scale]) if scale else plain.outputs[0].stride,
            half / sum(halves),
        )
        for scale, half in enumerate(halves)
    )
    return plain._replace(outputs=outputs)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The levels down to the bottleneck."""
    return ("encoder",)


def untold(config: Config) -> tuple[str, ...]:
    """Running statistics tell batch norm; activations and their place have no tensors, nor has a norm's epsilon."""
    names = ["activation"]
    if config.activation == "leakyrelu":
        names.append("negative_slope")
    if config.norm != "none":
        names += ["norm_epsilon", "activation_first"]
    if config.norm == "none" or (config.norm == "instance" and not config.norm_affine):
        names += ["norm", "norm_affine"]
    return tuple(names)


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return the network; without `deep_supervision` it has the head of full resolution alone."""
    from zoo.builders.nets.nnunet_unet import NNUNet

    values: dict[str, Any] = config.model_dump()
    return NNUNet(in_channels=in_channels, out_channels=out_channels, deep_supervision=deep_supervision, **values)


PLANS = PlansArchitecture(
    marker=_nnunet.MARKER, translate=_nnunet.translate, describe=_nnunet.describe, repeats=_nnunet.repeats
)
