"""Builder of MONAI's SegResNetDS: SegResNet with deep supervision and kernels for anisotropic voxels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from zoo.builders._shared import (
    Activation,
    Groups,
    Norm,
    at_bottleneck,
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

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

Blocks = Annotated[int, Field(ge=1, le=64)]


class Config(BuilderConfig):
    """SegResNetDS (after Myronenko, 2018), as MONAI builds it."""

    base_channels: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels at full resolution, doubled by each downsampling."""
    encoder_block_counts: Annotated[tuple[Blocks, ...], Field(strict=False, min_length=2, max_length=8)] = (
        1,
        2,
        2,
        4,
    )
    """Residual blocks of each encoder level, full resolution first; each decoder level has one."""
    supervised_levels: Annotated[int, Field(ge=0, le=6)] = 2
    """Decoder levels below full resolution that have an output of their own, the finest first."""
    voxel_size_nm: (
        Annotated[
            tuple[Annotated[float, Field(gt=0, le=1e6)], ...],
            Field(strict=False, min_length=3, max_length=3),
        ]
        | None
    ) = None
    """Voxel size (z, y, x): only its ratios count; a coarse axis is neither convolved nor halved until the others
    have caught up. None for isotropic voxels."""
    norm: Norm = "batch"
    """Normalisation before each convolution; `instance` has a learned scale here."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide `base_channels`."""
    activation: Activation = "relu"
    """Activation after each norm."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        decoder_levels = len(self.encoder_block_counts) - 1
        if self.supervised_levels >= decoder_levels:
            raise ValueError(
                f"supervised_levels {self.supervised_levels} is too many, {decoder_levels} decoder levels allow "
                f"at most {decoder_levels - 1} below full resolution"
            )
        check_groups(self.norm, self.num_groups, [self.base_channels])
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Downsampling (z, y, x) from each level to the next, by MONAI's rule."""
        size = self.voxel_size_nm or (1.0, 1.0, 1.0)
        lags = [math.floor(math.log2(max(size) / edge)) for edge in size]
        # An axis that is already as coarse as the coarsest waits until the finest has been halved often enough.
        return tuple(
            tuple(2 if level >= max(lags) or level < lag else 1 for lag in lags)
            for level in range(len(self.encoder_block_counts) - 1)
        )

    @property
    def approximate_parameters(self) -> int:
        """Weights of the residual blocks and of the down- and upsamplings, as if isotropic."""
        total = 0
        for level, count in enumerate(self.encoder_block_counts):
            width = self.base_channels * 2**level
            total += 2 * (count + 1) * weights(width, width) + 2 * weights(width // 2, width)
        return total


def interface(config: Config) -> Interface:
    """Every stride must divide evenly (MONAI itself refuses other sizes)."""
    widths = [config.base_channels * 2**level for level in range(len(config.encoder_block_counts))]
    widths = list(at_bottleneck(widths, config.strides))
    return volume_interface(
        config.strides,
        two_voxels=needs_two_voxels(config.norm, config.num_groups, widths),
        supervised=range(1, config.supervised_levels + 1),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """MONAI's own encoder."""
    return ("encoder",)


def untold(config: Config) -> tuple[str, ...]:
    """Most activations and some norms have no tensors of their own."""
    return (*untold_norm(config.norm), *untold_activation(config.activation))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network under our contract for outputs; without `deep_supervision` it has the last head only."""
    from zoo.builders.nets.monai_supervised import SupervisedSegResNetDS

    _, arguments = monai_definition(config, in_channels=in_channels, out_channels=out_channels)
    return SupervisedSegResNetDS(**arguments | {"dsdepth": 1 + config.supervised_levels if deep_supervision else 1})


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]]:
    """Return the class of MONAI and its arguments, as plain data, without deep supervision."""
    return "SegResNetDS", {
        "spatial_dims": 3,
        "init_filters": config.base_channels,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "act": config.activation,
        "norm": monai_norm(config.norm, config.num_groups),
        "blocks_down": config.encoder_block_counts,
        "dsdepth": 1,
        "resolution": config.voxel_size_nm,
    }
