"""Builder of the residual symmetric U-Net (RSUNet) for electron microscopy, isotropic or anisotropic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from connectomics_zoo.schema.pytc import Generation, PytcArchitecture, PytcKeys, PytcRequest, prefixed
from zoo.builders import _pytc
from zoo.builders._shared import (
    Groups,
    Kernel,
    Stride,
    Width,
    at_bottleneck,
    check_length,
    largest_divisor,
    total_stride,
    untold_activation,
    untold_norm,
    volume_interface,
    weights,
)

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

SUPERVISED = 4
"""At most so many levels, the coarsest, have a deep-supervision head."""


class Config(BuilderConfig):
    """Residual symmetric U-Net (Lee et al., 2017)."""

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=8)] = (
        16,
        32,
        64,
        128,
    )
    """Channels of each level, full resolution first."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=7)] = ((1, 2, 2),) * 3
    """Downsampling (z, y, x) from each level to the next."""
    kernel_sizes: Annotated[tuple[Kernel, ...], Field(strict=False, min_length=2, max_length=8)] = ((3, 3, 3),) * 4
    """Kernel (z, y, x) of each level; [1, 3, 3] keeps sections apart."""
    stem_kernel_size: Kernel | None = None
    """Kernel of the convolution that embeds the image. None leaves it out: the first block then normalises and
    rectifies the image itself, as in PyTorch Connectomics."""
    head_kernel_size: Kernel = (1, 1, 1)
    """Kernel of the convolution that makes the logits."""
    norm: Literal["batch", "group", "instance", "none"] = "batch"
    """Normalisation before each activation."""
    num_groups: Groups = 8
    """Groups of norm `group`; where they do not divide the channels, the next smaller number that does."""
    activation: Literal["relu", "leakyrelu", "prelu", "elu"] = "relu"
    """Activation before each convolution."""
    negative_slope: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Slope of `leakyrelu` below zero."""
    initial_slope: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Slope of `prelu` below zero before training."""

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
    def supervised(self) -> tuple[int, ...]:
        """The levels that have a deep-supervision head, from fine to coarse."""
        depth = len(self.strides)
        return tuple(range(max(1, depth - SUPERVISED + 1), depth + 1))

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        total = 4 * weights(self.channels[0], self.channels[0], self.kernel_sizes[0])
        for level, (fine, coarse) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            total += weights(fine + 3 * coarse, coarse, self.kernel_sizes[level + 1])
            total += weights(coarse, fine, (1, 1, 1)) + 4 * weights(fine, fine, self.kernel_sizes[level])
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly, or the skip connections do not fit."""
    widths = at_bottleneck(config.channels, config.strides)
    single = config.norm == "group" and any(largest_divisor(width, config.num_groups) == width for width in widths)
    return volume_interface(
        config.strides,
        two_voxels=config.norm in ("batch", "instance") or single,
        supervised=config.supervised,
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The embedding, where there is one, and the blocks down to the coarsest level."""
    stem = () if config.stem_kernel_size is None else ("stem",)
    return (*stem, "input_conv", "down_blocks")


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own; upsampling has, which tell the strides."""
    slope = ("negative_slope",) if config.activation == "leakyrelu" else ()
    return (*untold_norm(config.norm), *untold_activation(config.activation), *slope)


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return our own network."""
    from zoo.builders.nets.rsunet import RSUNet

    return RSUNet(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=config.channels,
        strides=config.strides,
        kernel_sizes=config.kernel_sizes,
        stem_kernel_size=config.stem_kernel_size,
        head_kernel_size=config.head_kernel_size,
        norm=config.norm,
        num_groups=config.num_groups,
        activation=config.activation,
        slope=config.negative_slope if config.activation == "leakyrelu" else config.initial_slope,
        supervised=config.supervised if deep_supervision else (),
    )


# PyTorch Connectomics


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    settings = request.settings
    factors, shallow, kernel = settings["down_factors"], settings["depth_2d"], request.whole_numbers("kernel_2d")
    if type(shallow) is not int or shallow < 0:
        raise request.refuse("depth_2d", "it must be a whole number of at least 0")
    if not shallow and list(kernel) != request.defaults["kernel_2d"]:
        raise request.refuse("kernel_2d", "which has no effect with depth_2d 0: remove it")
    levels = len(request.whole_numbers("filters"))
    if shallow > levels:
        raise request.refuse("depth_2d", f"but there are {levels} levels: give at most as many")
    arch = {
        "strides": [[1, 2, 2]] * (levels - 1) if factors is None else factors,
        "kernel_sizes": [kernel] * shallow + [[3, 3, 3]] * (levels - shallow),
        "negative_slope": settings["act_negative_slope"],
        "initial_slope": settings["act_init"],
        **_pytc_options(request),
    }
    return "rsunet-aniso", arch


def _isotropic_from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    levels = len(request.whole_numbers("filters"))
    strides = [[2, 2, 2]] * (levels - 1)
    if request.settings["down_factors"] not in (None, strides):
        raise request.refuse("down_factors", f"this architecture has {strides}: remove it, or choose 'rsunet'")
    return "rsunet", {"strides": strides, "kernel_sizes": [[3, 3, 3]] * levels, **_pytc_options(request)}


def _pytc_options(request: PytcRequest) -> dict[str, Any]:
    """What both have: PyTC's variant has no convolution of its own for the image, and a 1x1x1 head."""
    _pytc.volume_size(request)
    settings = request.settings
    return {
        "channels": settings["filters"],
        "stem_kernel_size": None,
        "head_kernel_size": [1, 1, 1],
        "norm": settings["norm"],
        "num_groups": settings["num_groups"],
        "activation": settings["activation"],
    }


_PYTC_DEFAULTS = {
    "norm": "batch",
    "activation": "relu",
    "num_groups": 8,
    "down_factors": None,
    "depth_2d": 0,
    "kernel_2d": [1, 3, 3],
    "act_negative_slope": 0.01,
    "act_init": 0.25,
}
_PYTC_FILTERS = [16, 32, 64, 128]
_PYTC_SECTION: Mapping[Generation, PytcKeys] = {
    # Here it shares the key of MONAI's networks, and its default.
    "flat": prefixed(
        "rsunet_",
        {"filters": _pytc.MONAI["flat"].defaults["filters"], **_PYTC_DEFAULTS},
        renamed={"filters": "filters"},
    ),
    "nested": prefixed("rsunet.", {"filters": _PYTC_FILTERS, **_PYTC_DEFAULTS}, renamed={"filters": "rsunet.width"}),
}

PYTC = (
    PytcArchitecture(
        name="rsunet",
        models=("rsunet-aniso",),
        sections=_PYTC_SECTION,
        settings=("filters", *_PYTC_DEFAULTS),
        translate=_from_pytc,
        supervised=True,
        needs={
            **_pytc.GROUPS,
            "act_negative_slope": ("activation", "leakyrelu"),
            "act_init": ("activation", "prelu"),
        },
        fallbacks={"filters": _PYTC_FILTERS},
        profiles={
            "rsunet": {
                "filters": [18, 36, 48, 64, 80],
                "norm": "group",
                "activation": "elu",
                "num_groups": 4,
                "down_factors": [[1, 2, 2]] * 4,
                "depth_2d": 1,
                "kernel_2d": [1, 3, 3],
            },
        },
    ),
    PytcArchitecture(
        name="rsunet_iso",
        models=("rsunet",),
        sections=_PYTC_SECTION,
        settings=("filters", "norm", "activation", "num_groups", "down_factors"),
        translate=_isotropic_from_pytc,
        supervised=True,
        needs=_pytc.GROUPS,
        fallbacks={"filters": _PYTC_FILTERS},
    ),
)
