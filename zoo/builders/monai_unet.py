"""Builder of MONAI's UNet, with residual units and strided convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from connectomics_zoo.schema.pytc import PytcArchitecture, PytcRequest
from zoo.builders import _pytc
from zoo.builders._shared import (
    Activation,
    Edge,
    Groups,
    Norm,
    Probability,
    Width,
    at_bottleneck,
    check_groups,
    check_length,
    monai_norm,
    needs_two_voxels,
    nested_encoder,
    untold_activation,
    untold_norm,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

Kernel = Annotated[tuple[Edge, ...], Field(strict=False, min_length=2, max_length=3)]
"""A kernel (z, y, x), or (y, x)."""

Stride = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(strict=False, min_length=2, max_length=3)]
"""A downsampling factor (z, y, x), or (y, x)."""


class Config(BuilderConfig):
    """UNet with residual units (Kerfoot et al., 2019), as MONAI builds it."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=8)] = (
        32,
        64,
        128,
        256,
        512,
    )
    """Channels of each level; the first level already has the first stride, the last one is the bottleneck."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=7)] = ((2, 2, 2),) * 4
    """Downsampling (z, y, x) of each level but the bottleneck."""
    kernel_size: Kernel = (3, 3, 3)
    """Kernel (z, y, x) of the convolutions."""
    up_kernel_size: Kernel = (3, 3, 3)
    """Kernel (z, y, x) of the transposed convolutions."""
    num_res_units: Annotated[int, Field(ge=0, le=16)] = 2
    """Convolutions in each residual unit of the encoder; 0 gives plain convolutions."""
    norm: Norm = "batch"
    """Normalisation after each convolution."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide all channels, those of the output included."""
    activation: Activation = "prelu"
    """Activation after each norm."""
    dropout: Probability = 0.0
    """Dropout after each norm, in training."""
    spatial_dims: Literal[2, 3] = 3
    """2 for images, with kernels and strides (y, x), 3 for volumes."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        check_length("strides", self.strides, levels - 1, f"a network of {levels} levels")
        for field, axes in (
            ("kernel_size", self.kernel_size),
            ("up_kernel_size", self.up_kernel_size),
            *((f"strides[{index}]", stride) for index, stride in enumerate(self.strides)),
        ):
            check_length(field, axes, self.spatial_dims, f"spatial_dims {self.spatial_dims}")
        check_groups(self.norm, self.num_groups, self.channels)
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        repeats = max(self.num_res_units - 1, 0)
        residuals = 2 if self.num_res_units else 1
        total = 0
        for fine, coarse in zip(self.channels, self.channels[1:], strict=False):
            total += weights(fine, coarse, self.kernel_size) * residuals
            total += weights(coarse, coarse, self.kernel_size) * repeats
            total += weights(2 * coarse, fine, self.up_kernel_size)
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly, or the skip connections do not fit."""
    widths = at_bottleneck(config.channels, [*config.strides[1:], (1,) * config.spatial_dims])
    return volume_interface(config.strides, two_voxels=needs_two_voxels(config.norm, config.num_groups, widths))


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The levels down to the bottleneck, which MONAI nests."""
    return nested_encoder(len(config.channels))


def untold(config: Config) -> tuple[str, ...]:
    """A stride leaves no trace in a kernel."""
    return ("strides", *untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`.

    Raises:
        SpecError: norm `group` does not divide the output's channels, which residual units normalise.
    """
    if config.norm == "group" and config.num_res_units and out_channels % config.num_groups:
        raise SpecError(
            f"norm 'group' with {config.num_groups} groups cannot divide the {out_channels} output channels, "
            "which this network normalises too: use norm 'batch' or 'instance', or num_res_units 0."
        )
    from monai.networks.nets.unet import UNet

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    network: nn.Module = UNet(**arguments)
    return network


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data."""
    return "UNet", {
        "spatial_dims": config.spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": config.channels,
        "strides": config.strides,
        "kernel_size": config.kernel_size,
        "up_kernel_size": config.up_kernel_size,
        "num_res_units": config.num_res_units,
        "act": config.activation,
        "norm": monai_norm(config.norm, config.num_groups),
        "dropout": config.dropout,
    }


PYTC_FLAT_LEVELS = 5
"""Levels that PyTorch Connectomics takes from `filters` in its flat generation."""


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    settings, dims = request.settings, _pytc.spatial_dims(request)
    channels = request.whole_numbers("filters")
    if request.generation == "flat" and len(channels) > PYTC_FLAT_LEVELS:
        raise request.refuse("filters", f"PyTC takes the first {PYTC_FLAT_LEVELS}: leave out what is more")
    strides = [2] * (len(channels) - 1)
    if settings["strides"] not in (None, strides):
        raise request.refuse("strides", f"PyTC builds {strides} whatever it says: write that, or null")
    arch = {
        "channels": channels,
        "strides": [[stride] * dims for stride in strides],
        "kernel_size": [settings["kernel_size"]] * dims,
        "up_kernel_size": [3] * dims,  # whatever kernel_size says
        "num_res_units": settings["num_res_units"],
        "dropout": settings["dropout"],
        "spatial_dims": dims,
        **_pytc.norm(request),
    }
    return "monai_unet", arch


PYTC = (
    PytcArchitecture(
        name="monai_unet",
        models=("monai_unet",),
        sections=_pytc.MONAI,
        settings=(
            *("filters", "dropout", "norm", "num_groups"),
            *("num_res_units", "kernel_size", "strides", "spatial_dims"),
        ),
        translate=_from_pytc,
        needs=_pytc.GROUPS,
        profiles={"monai_unet": {"filters": [32, 64, 128, 256]}},
    ),
)
