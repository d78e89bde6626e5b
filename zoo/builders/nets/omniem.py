"""OmniEM in plain PyTorch and MONAI's blocks: EM-DINO's vision transformer, adapters across sections, a UNETR decoder.

He et al., "Unifying the Electron Microscopy Multiverse through a Large-scale Foundation Model". Names, shapes and
arithmetic are those of the authors' package omniem (https://github.com/pku-maleilab/omniem-package, release 0.1.2,
MIT), so that its checkpoints load without a map. Its tensors have the sections last, and so have its kernels: volumes
are turned on the way in and out.

Shapes: B batch, Z, Y, X space, R rows and K columns of patches, N = 1 + R * K tokens of D channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.builders.nets.vision_transformer import EPSILON, VisionTransformer

PATCH_EDGE = 14
"""Pixels along an edge of a patch."""

NORM = "instance"
"""Without a learned scale, as MONAI's is by default."""

GREY = 3
"""Channels of the transformer, in which a grey image is repeated."""


class SectionAdapter(nn.Module):
    """Mixes the patches of three sections at the same place, in few channels, and adds that to them."""

    def __init__(self, channels: int, adapter_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, adapter_channels)
        self.conv = nn.Conv3d(adapter_channels, adapter_channels, (3, 1, 1), padding=(1, 0, 0), groups=adapter_channels)
        self.dropout = nn.Dropout3d(dropout)
        self.fc2 = nn.Linear(adapter_channels, channels)
        # At first it adds nothing.
        for values in (self.conv.weight, self.conv.bias, self.fc1.bias, self.fc2.bias):
            assert values is not None
            nn.init.zeros_(values)

    def forward(self, tokens: Tensor, grid: tuple[int, int], sections: int) -> Tensor:
        """(B * Z, N, D) -> the same shape; the token of the class stays."""
        mixed = self.fc1(tokens[:, 1:]).unflatten(0, (-1, sections)).unflatten(2, grid)  # (B, Z, R, K, C)
        mixed = self.dropout(self.conv(mixed.permute(0, 4, 1, 2, 3))).permute(0, 2, 3, 4, 1)
        added = self.fc2(mixed.flatten(2, 3).flatten(0, 1))
        return torch.cat((tokens[:, :1], tokens[:, 1:] + added), dim=1)


class ResizeConvolution(nn.Module):
    """More channels, linear interpolation to twice the size within sections, and fewer channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = nn.Conv3d(inputs, 4 * outputs, 3, padding=1)
        self.fuse = nn.Conv3d(4 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Y, X, Z) -> (B, outputs, 2Y, 2X, Z)."""
        x = F.interpolate(self.expand(x), scale_factor=(2.0, 2.0, 1.0), mode="trilinear")
        result: Tensor = self.fuse(x)
        return result


class UpBlock(nn.Module):
    """Upsampling, the skip connection behind it, and two convolutions."""

    def __init__(self, inputs: int, outputs: int, *, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.transp = ResizeConvolution(inputs, outputs)
        self.conv_block = UnetBasicBlock(3, 2 * outputs, outputs, kernel, 1, NORM)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, inputs, Y, X, Z) and the skip (B, outputs, 2Y, 2X, Z) -> (B, outputs, 2Y, 2X, Z)."""
        result: Tensor = self.conv_block(torch.cat((self.transp(x), skip), dim=1))
        return result


class OmniEM(nn.Module):
    """The network: each section through the transformer, whose features at four depths a UNETR's decoder joins.

    Args:
        in_channels: channels of the input; one is repeated three times.
        out_channels: channels of the output.
        hidden_size: channels of a token.
        depth: blocks of the transformer, at least four.
        num_heads: heads of each attention.
        grid_edge: patches along an edge of the images that position embeddings are of.
        adapter_channels: of the adapters.
        feature_size: channels at full resolution.
        kernel_z: sections that the decoder's kernels cover.
        token_edge: voxels along an edge of a patch: 14, or 16, where the image is resized for the transformer.
        image_mean: what is taken from the image.
        image_std: what it is then divided by.
        dropout: of adapters and, less, of the decoder, in training.
        path_dropout: of the transformer's blocks, in training.
        spatial_dims: 3 for volumes; 2 for images, which are volumes of one section.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        grid_edge: int,
        adapter_channels: int,
        feature_size: int,
        kernel_z: int,
        token_edge: int,
        image_mean: float,
        image_std: float,
        dropout: float,
        path_dropout: float,
        spatial_dims: Literal[2, 3],
    ) -> None:
        super().__init__()
        self.token_edge = token_edge
        self.image_mean, self.image_std = image_mean, image_std
        self.spatial_dims = spatial_dims
        self.taken = tuple((quarter + 1) * depth // 4 - 1 for quarter in range(3))
        """The blocks whose tokens the decoder joins, beside those of the last."""
        channels = GREY if in_channels == 1 else in_channels
        self.vit = VisionTransformer(
            in_channels=channels,
            channels=hidden_size,
            depth=depth,
            num_heads=num_heads,
            patch_edge=PATCH_EDGE,
            grid_edge=grid_edge,
            path_dropout=path_dropout,
        )
        self.adapters = nn.ModuleList(
            SectionAdapter(hidden_size, adapter_channels, dropout=dropout) for _ in range(depth)
        )
        kernel = (3, 3, kernel_z)
        self.encoder1 = UnetrBasicBlock(3, channels, feature_size, kernel, 1, NORM)
        for name, level in (("encoder2", 1), ("encoder3", 2), ("encoder4", 3)):
            width = feature_size * 2**level
            projection = UnetrPrUpBlock(3, hidden_size, width, 3 - level, kernel, 1, (2, 2, 1), NORM, conv_block=True)
            self.add_module(name, projection)
        widths = (hidden_size, *(feature_size * 2**level for level in (3, 2, 1, 0)))
        for index, name in enumerate(("decoder5", "decoder4", "decoder3", "decoder2")):
            self.add_module(name, UpBlock(widths[index], widths[index + 1], kernel=kernel))
        self.out = UnetOutBlock(3, feature_size, out_channels)
        for name in ("norm2", "norm3", "norm4"):
            self.add_module(name, nn.LayerNorm(hidden_size, EPSILON))
        for name, share in (("drop4", 1.0), ("drop3", 0.5), ("drop2", 0.25)):
            self.add_module(name, nn.Dropout3d(dropout * share))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X), or (B, in_channels, Y, X), of values from 0 to 1 -> logits of the same size."""
        if self.spatial_dims == 2:
            return self._volume(x.unsqueeze(2)).squeeze(2)
        return self._volume(x)

    def _volume(self, x: Tensor) -> Tensor:
        batch, channels, sections, height, width = x.shape
        x = (x - self.image_mean) / self.image_std
        if channels == 1:
            x = x.expand(-1, GREY, -1, -1, -1)
        images = x.transpose(1, 2).flatten(0, 1)  # (B * Z, C, Y, X)
        if self.token_edge != PATCH_EDGE:
            size = [edge * PATCH_EDGE // self.token_edge for edge in (height, width)]
            images = F.interpolate(images, size=size, mode="bicubic")
        grid = (height // self.token_edge, width // self.token_edge)

        def adapted(adapter: nn.Module, tokens: Tensor, patches: tuple[int, int]) -> Tensor:
            result: Tensor = adapter(tokens, patches, sections)
            return result

        adapters = [lambda tokens, patches, a=a: adapted(a, tokens, patches) for a in self.adapters]
        depths, last = self.vit(images, adapters)

        def features(tokens: Tensor) -> Tensor:
            """(B * Z, N, D) -> (B, D, R, K, Z)."""
            return tokens[:, 1:].reshape(batch, sections, *grid, tokens.shape[2]).permute(0, 4, 2, 3, 1)

        part = self.get_submodule
        first = part("encoder1")(x.permute(0, 1, 3, 4, 2))
        skips = [
            part(f"encoder{index}")(features(part(f"norm{index}")(depths[block])))
            for index, block in enumerate(self.taken, start=2)
        ]
        y = part("decoder5")(part("drop4")(features(last)), skips[2])
        y = part("decoder4")(part("drop3")(y), skips[1])
        y = part("decoder3")(part("drop2")(y), skips[0])
        # Eight pixels a patch: half of the image only where a patch has sixteen.
        y = F.interpolate(y, size=(height // 2, width // 2, sections), mode="trilinear")
        y = part("decoder2")(y, first)
        logits: Tensor = self.out(y)
        return logits.permute(0, 1, 4, 2, 3)
