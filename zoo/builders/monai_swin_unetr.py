"""Builder of MONAI's SwinUNETR, a shifted-window transformer with a convolutional decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, refuse_too_many
from connectomics_zoo.schema.pytc import PytcArchitecture, PytcRequest
from zoo.builders import _pytc
from zoo.builders._shared import Probability, volume_interface, weights

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

STAGES = 4

PerStage = Annotated[
    tuple[Annotated[int, Field(ge=1, le=256)], ...],
    Field(strict=False, min_length=STAGES, max_length=STAGES),
]


class Config(BuilderConfig):
    """Swin UNETR (Hatamizadeh et al., 2022), as MONAI builds it: instance norm, windows of 7 tokens."""

    feature_size: Annotated[int, Field(ge=12, le=1536, multiple_of=12)] = 48
    """Channels at full resolution and of the tokens, doubled by each of the four stages."""
    depths: PerStage = (2, 2, 2, 2)
    """Transformer blocks of each stage."""
    num_heads: PerStage = (3, 6, 12, 24)
    """Attention heads of each stage, which must divide its channels."""
    patch_merging: Literal["merging", "mergingv2", "merging-before-1.5"] = "merging"
    """Order in which eight tokens are merged into one, as MONAI calls it; `merging-before-1.5` is what MONAI called
    `merging` until then, which took two tokens twice and left two out under the same keys."""
    normalize: bool = True
    """Layer norm, without a learned scale, of each stage's tokens before the decoder."""
    stage_convolutions: bool = False
    """A residual block of convolutions before each stage: Swin UNETR version 2 (He et al., 2023)."""
    dropout: Probability = 0.0
    """Dropout of tokens and hidden layers, in training."""
    attention_dropout: Probability = 0.0
    """Dropout of attention weights, in training."""
    path_dropout: Probability = 0.0
    """Probability that training skips the last block; it rises linearly from zero at the first."""
    checkpointing: bool = False
    """Recompute the transformer blocks in the backward pass: less memory, more time."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for stage, heads in enumerate(self.num_heads):
            width = self.feature_size * 2**stage
            if width % heads:
                raise ValueError(f"num_heads {heads} does not divide the {width} channels of stage {stage}, change it")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the transformer and of the convolutions."""
        size = self.feature_size
        total = 2 * weights(16 * size, 16 * size) + 2 * weights(size, size)
        for stage, depth in enumerate(self.depths):
            width = size * 2**stage
            total += 2 * weights(width, width) if self.stage_convolutions else 0
            total += depth * 12 * width**2 + 16 * width**2
            total += 4 * weights(width, width) + weights(width, width) + weights(2 * width, width, (2, 2, 2))
        return total


def interface(config: Config) -> Interface:
    """Five halvings (MONAI itself refuses other sizes), and instance norm at the coarsest level."""
    return volume_interface([(2, 2, 2)] * (STAGES + 1), two_voxels=True)


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The transformer, and the convolutions that its features pass before the decoder."""
    return ("swinViT", *(f"encoder{index}" for index in (1, 2, 3, 4, 10)))


def untold(config: Config) -> tuple[str, ...]:
    """Neither the order of merged tokens nor a norm without a scale has tensors."""
    return ("patch_merging", "normalize")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`."""
    import torch
    from monai.networks.nets.swin_unetr import SwinUNETR

    from zoo.builders.nets.monai_patch_merging import patch_merging

    # MONAI's constructor reads a value from a tensor, which the meta device cannot give: build on the CPU, then move.
    device = torch.empty(0).device
    downsample: Any = patch_merging(config.patch_merging)  # MONAI's hint is of an instance, and it takes the class
    with torch.device("cpu"):
        network: nn.Module = SwinUNETR(**_arguments(config, in_channels, out_channels), downsample=downsample)
    return network.to(device)


def monai_definition(config: Config, *, in_channels: int, out_channels: int) -> tuple[str, dict[str, Any]] | None:
    """Return the class of MONAI and its arguments, as plain data; None for patches in an order of old."""
    if config.patch_merging == "merging-before-1.5":
        return None
    return "SwinUNETR", {**_arguments(config, in_channels, out_channels), "downsample": config.patch_merging}


def _arguments(config: Config, in_channels: int, out_channels: int) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "depths": config.depths,
        "num_heads": config.num_heads,
        "feature_size": config.feature_size,
        "drop_rate": config.dropout,
        "attn_drop_rate": config.attention_dropout,
        "dropout_path_rate": config.path_dropout,
        "use_checkpoint": config.checkpointing,
        "normalize": config.normalize,
        "use_v2": config.stage_convolutions,
        "spatial_dims": 3,
    }


_FIELDS_OF_PYTC = {
    "feature_size": "feature_size",
    "dropout": "dropout",
    "attn_drop_rate": "attention_dropout",
    "dropout_path_rate": "path_dropout",
    "use_checkpoint": "checkpointing",
}


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    _pytc.volume_size(request)
    return "monai_swin_unetr", {field: request.settings[name] for name, field in _FIELDS_OF_PYTC.items()}


PYTC = (
    PytcArchitecture(
        name="monai_swin_unetr",
        models=("monai_swin_unetr",),
        sections=_pytc.TRANSFORMER,
        settings=tuple(_FIELDS_OF_PYTC),
        translate=_from_pytc,
        # It cannot be built with the 16 features of the section, so that only what PyTC's builder takes is left.
        own_defaults={"feature_size": 48},
    ),
)
