"""Builder of OmniEM: the vision transformer EM-DINO, section by section, with a decoder for segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from zoo.builders._shared import Probability, weights

if TYPE_CHECKING:
    from torch import nn

INERT = ("vit.mask_token",)
"""It stands for hidden patches in self-supervised training alone."""


class Config(BuilderConfig):
    """OmniEM, a ViT with adapters across sections and a UNETR's decoder."""

    hidden_size: Annotated[int, Field(ge=1, le=4096)] = 1024
    """Channels of a token, a multiple of `num_heads`."""
    depth: Annotated[int, Field(ge=4, le=64)] = 24
    """Blocks of the transformer; the decoder joins the tokens after each quarter of them."""
    num_heads: Annotated[int, Field(ge=1, le=64)] = 16
    """Attention heads of each block."""
    grid_edge: Annotated[int, Field(ge=1, le=256)] = 37
    """Patches along an edge of the images that position embeddings are of; for other sizes they are interpolated."""
    adapter_channels: Annotated[int, Field(ge=1, le=4096)] = 128
    """Channels of the adapters, which mix three sections after each block."""
    feature_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Channels of the decoder at full resolution, doubled by each of three levels."""
    kernel_z: Literal[1, 3, 5] = 1
    """Sections that the decoder's kernels cover."""
    token_edge: Literal[14, 16] = 14
    """Voxels along an edge of a patch: 14 as they are, or 16, resized to 14 for the transformer."""
    image_mean: Annotated[float, Field(ge=-10, le=10)] = 0.595446
    """What is taken from an image of values from 0 to 1: EM-DINO's mean."""
    image_std: Annotated[float, Field(gt=0, le=10)] = 0.211906
    """What that is divided by: EM-DINO's standard deviation."""
    dropout: Probability = 0.1
    """Dropout of the adapters' channels, in training; of the decoder's the same at its coarsest level, then half, then
    a quarter."""
    path_dropout: Probability = 0.3
    """Share of a batch's sections that each block leaves out, in training."""
    spatial_dims: Literal[2, 3] = 3
    """2 for images, 3 for volumes."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}, change either"
            )
        if self.spatial_dims == 2 and self.kernel_z != 1:
            raise ValueError(f"kernel_z {self.kernel_z} needs sections: give spatial_dims 3, or kernel_z 1")
        refuse_too_many(self.approximate_parameters)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the transformer, its adapters and the widest convolutions."""
        hidden, coarsest = self.hidden_size, 8 * self.feature_size
        blocks = self.depth * (12 * hidden**2 + 2 * hidden * self.adapter_channels)
        ways_in = 3 * weights(hidden, coarsest, (2, 2, 1)) + 588 * hidden
        return blocks + self.grid_edge**2 * hidden + ways_in + weights(hidden, 4 * coarsest)


def interface(config: Config) -> Interface:
    """Whole patches, of any number of sections."""
    sections = (1,) if config.spatial_dims == 3 else ()
    size = (*sections, config.token_edge, config.token_edge)
    return Interface(
        axes="zyx"[3 - len(size) :],
        minimum=size,
        step=size,
        outputs=(OutputGeometry("output", (1,) * len(size), 1.0),),
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The transformer and the convolutions of the image: adapters are trained with the decoder, as the original's."""
    return ("vit", "encoder1")


def untold(config: Config) -> tuple[str, ...]:
    """The heads share one matrix, whatever their number, and images may be scaled in any way."""
    return ("num_heads", "token_edge", "image_mean", "image_std", "spatial_dims")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return our own network; it has one output, with and without `deep_supervision`."""
    from zoo.builders.nets.omniem import OmniEM

    return OmniEM(
        in_channels=in_channels,
        out_channels=out_channels,
        hidden_size=config.hidden_size,
        depth=config.depth,
        num_heads=config.num_heads,
        grid_edge=config.grid_edge,
        adapter_channels=config.adapter_channels,
        feature_size=config.feature_size,
        kernel_z=config.kernel_z,
        token_edge=config.token_edge,
        image_mean=config.image_mean,
        image_std=config.image_std,
        dropout=config.dropout,
        path_dropout=config.path_dropout,
        spatial_dims=config.spatial_dims,
    )
