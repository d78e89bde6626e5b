"""Builder of Primus, nnU-Net's transformer: tokens of a few voxels, rotary positions, and a light decoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.plans import PlannedNetwork, PlansArchitecture, PlansRequest
from zoo.builders._shared import Probability, weights

if TYPE_CHECKING:
    from torch import nn

INERT = ("mask_token",)
"""What stands for tokens that are dropped in pretraining, which no training here does."""

HIDDEN_RATIO = 4 * 2 / 3
"""Hidden channels of a block's gated layer per channel of the token."""

SIZES = {(396, 12): ("S", 6), (792, 12): ("B", 12), (864, 16): ("M", 12), (1056, 24): ("L", 16)}
"""The size and the heads of each that nnU-Net trains, by `embed_dim` and `depth`."""

_Token = Annotated[int, Field(ge=1, le=32, json_schema_extra={"enum": [1, 2, 4, 8, 16, 32]})]
_Edge = Annotated[int, Field(ge=1, le=1024)]


class Config(BuilderConfig):
    """Primus (Wald et al., 2025)."""

    img_size: Annotated[tuple[_Edge, ...], Field(strict=False, min_length=3, max_length=3)] = (96, 96, 96)
    """The one input size (z, y, x), in voxels, that the position embeddings are made for."""
    token_size: Annotated[tuple[_Token, ...], Field(strict=False, min_length=3, max_length=3)] = (8, 8, 8)
    """Voxels of a token (z, y, x), powers of two that divide `img_size`."""
    embed_dim: Annotated[int, Field(ge=12, le=8192)] = 396
    """Channels of a token; each head has a multiple of 6 of them."""
    depth: Annotated[int, Field(ge=1, le=64)] = 12
    """Transformer blocks."""
    num_heads: Annotated[int, Field(ge=1, le=256)] = 6
    """Attention heads."""
    path_dropout: Probability = 0.2
    """Probability that the last block is left out for a sample, in training; it rises linearly from 0 at the first."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if any(edge & (edge - 1) for edge in self.token_size) or max(self.token_size) < 2:
            raise ValueError(f"token_size {list(self.token_size)} must be powers of two, one of them 2 or more")
        if any(edge % token for edge, token in zip(self.img_size, self.token_size, strict=True)):
            raise ValueError(
                f"img_size {list(self.img_size)} is no multiple of token_size {list(self.token_size)}, change either"
            )
        if self.embed_dim % (6 * self.num_heads):
            raise ValueError(
                f"embed_dim {self.embed_dim} is no multiple of 6 * num_heads ({6 * self.num_heads}), which the rotary "
                "positions along three axes need: change either"
            )
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens along each axis."""
        return tuple(edge // token for edge, token in zip(self.img_size, self.token_size, strict=True))

    @property
    def approximate_parameters(self) -> int:
        """Weights of the transformer, the position embeddings and what makes tokens of voxels."""
        width, hidden = self.embed_dim, int(self.embed_dim * HIDDEN_RATIO)
        blocks = self.depth * (4 * width**2 + 3 * width * hidden)
        return blocks + math.prod(self.grid) * width + 2 * weights(1, width, self.token_size)


def interface(config: Config) -> Interface:
    """Only `img_size` is legal: the step to the next size leads beyond the largest that a spec can state."""
    return Interface(
        axes="zyx",
        minimum=config.img_size,
        step=(MAX_EDGE,) * 3,
        outputs=(OutputGeometry("output", (1, 1, 1), 1.0),),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The tokens and the transformer."""
    return ("down_projection", "eva")


def untold(config: Config) -> tuple[str, ...]:
    """The heads share one matrix, and the position embeddings tell how many tokens there are, not along which axis."""
    return ("num_heads", "img_size")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return the network; it has one output, with and without `deep_supervision`."""
    from zoo.builders.nets.nnunet_primus import Primus

    values: dict[str, Any] = config.model_dump(exclude={"img_size"})
    return Primus(
        in_channels=in_channels,
        out_channels=out_channels,
        grid=config.grid,
        hidden_dim=int(config.embed_dim * HIDDEN_RATIO),
        **values,
    )


def _translate(request: PlansRequest) -> PlannedNetwork:
    """Return Primus as its tensors tell it; they do not tell the heads, which follow from the size."""
    shapes = request.shapes
    width, tokens = shapes[PLANS.marker][-1], shapes.get("down_projection.proj.weight", ())
    # The last stage of the decoder alone is no sequence of layers.
    heads = [key for key in shapes if key.startswith("up_projection.decode.") and key.count(".") == 3]
    kernels = [shapes[key] for key in heads if key.endswith(".weight")]
    if len(tokens) != 5 or [len(kernel) for kernel in kernels] != [5]:
        raise SpecError(
            "the checkpoint has a Primus that makes tokens by several layers (V2, V3), which no model here does."
        )
    depth = sum(key.startswith("eva.blocks.") and key.endswith(".norm1.weight") for key in shapes)
    if (width, depth) not in SIZES:
        raise SpecError(
            f"the checkpoint has a Primus of {depth} blocks of {width} channels, whose number of heads no tensor tells "
            f"(nnU-Net's have {', '.join(f'{blocks} of {each}' for each, blocks in SIZES)}): give its spec by --model."
        )
    size, heads_of_attention = SIZES[width, depth]
    arch = {
        "img_size": list(request.patch_size),
        "token_size": list(tokens[2:]),
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads_of_attention,
    }
    return PlannedNetwork(f"nnunet-primus-{size}", arch, in_channels=tokens[1], out_channels=kernels[0][1])


PLANS = PlansArchitecture(marker="eva.pos_embed", translate=_translate)
