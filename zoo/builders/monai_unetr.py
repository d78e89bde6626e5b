"""Builder of MONAI's UNETR, a vision transformer with a convolutional decoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.pytc import PytcArchitecture, PytcRequest
from zoo.builders import _pytc
from zoo.builders._shared import Groups, Norm, Probability, check_groups, monai_norm, untold_norm, weights

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

TOKEN_EDGE = 16
"""Voxels per token along each axis, fixed by the decoder's four doublings."""

INERT = ("vit.blocks.*.norm_cross_attn.*", "vit.blocks.*.cross_attn.*")
"""For a second input that UNETR does not have: MONAI's blocks carry the norm since 1.4, the attention until 1.5."""

LAYERS = 12
"""Transformer blocks, fixed by the decoder's skip connections."""


class Config(BuilderConfig):
    """UNETR (Hatamizadeh et al., 2022), as MONAI builds it."""

    img_size: Annotated[
        tuple[
            Annotated[int, Field(ge=TOKEN_EDGE, le=1024, multiple_of=TOKEN_EDGE)],
            ...,
        ],
        Field(strict=False, min_length=3, max_length=3),
    ] = (64, 64, 64)
    """The one input size (z, y, x), in voxels, that the position embeddings are made for."""
    feature_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the decoder at full resolution."""
    hidden_size: Annotated[int, Field(ge=1, le=8192)] = 768
    """Width of the transformer; a multiple of `num_heads`."""
    mlp_dim: Annotated[int, Field(ge=1, le=65536)] = 3072
    """Width of the hidden layer in each transformer block."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 12
    """Attention heads."""
    projection: Literal["conv", "perceptron"] = "conv"
    """How a token is made of its voxels: the same arithmetic, under different names in the state dict."""
    norm: Norm = "instance"
    """Normalisation in encoder and decoder convolutions."""
    num_groups: Groups = 8
    """Groups of norm `group`, which must divide `feature_size`."""
    dropout: Probability = 0.0
    """Dropout in the transformer, in training."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}, change either"
            )
        check_groups(self.norm, self.num_groups, [self.feature_size])
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the transformer, the position embeddings and the widest convolutions."""
        hidden, features = self.hidden_size, self.feature_size
        tokens = math.prod(edge // TOKEN_EDGE for edge in self.img_size)
        transformer = LAYERS * (4 * hidden**2 + 2 * hidden * self.mlp_dim)
        decoder = 2 * weights(hidden, 8 * features, (2, 2, 2)) + 4 * weights(8 * features, 8 * features)
        return transformer + tokens * hidden + TOKEN_EDGE**3 * hidden + decoder


def interface(config: Config) -> Interface:
    """Only `img_size` is legal: the step to the next size leads beyond the largest that a spec can state."""
    return Interface(
        axes="zyx",
        minimum=config.img_size,
        step=(MAX_EDGE,) * 3,
        outputs=(OutputGeometry("output", (1, 1, 1), 1.0),),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The transformer, and the convolutions that its features pass before the decoder."""
    return ("vit", *(f"encoder{index}" for index in range(1, 5)))


def untold(config: Config) -> tuple[str, ...]:
    """The heads share one matrix, whatever their number."""
    return ("num_heads", *untold_norm(config.norm))


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return MONAI's network; it has one output, with and without `deep_supervision`."""
    from monai.networks.nets.unetr import UNETR
    from torch import nn

    network: nn.Module = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=config.img_size,
        feature_size=config.feature_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        proj_type=config.projection,
        norm_name=monai_norm(config.norm, config.num_groups),
        dropout_rate=config.dropout,
    )
    for block in network.get_submodule("vit.blocks").children():
        # MONAI's blocks carry a norm, and before 1.6 an attention, for a second input that UNETR does not have.
        block.get_submodule("norm_cross_attn").requires_grad_(False)
        block.add_module("cross_attn", nn.Identity())
    return network


_SAME_IN_PYTC = ("feature_size", "hidden_size", "mlp_dim", "num_heads", "norm", "dropout")


def _from_pytc(request: PytcRequest) -> tuple[str, dict[str, Any]]:
    arch = {
        "img_size": _pytc.volume_size(request),
        "projection": request.settings["pos_embed"],
        **{name: request.settings[name] for name in _SAME_IN_PYTC},
    }
    return "monai_unetr", arch


PYTC = (
    PytcArchitecture(
        name="monai_unetr",
        models=("monai_unetr",),
        sections=_pytc.TRANSFORMER,
        settings=("pos_embed", *_SAME_IN_PYTC),
        translate=_from_pytc,
        fallbacks={"norm": "instance"},
    ),
)
