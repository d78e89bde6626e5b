"""The vision transformer of DINOv2 in plain PyTorch, with room for an adapter after each block.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929; Oquab et al., "DINOv2:
Learning Robust Visual Features without Supervision", 2023, https://arxiv.org/abs/2304.07193. Names, shapes and
arithmetic are those of its authors' code (https://github.com/facebookresearch/dinov2, Apache-2.0), without registers.

Shapes: B images, D channels of a token, N tokens: one of the class, then the patches row by row; H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6
"""Of every layer norm."""

OFFSET = 0.1
"""What the original adds to a size before it divides by the size of the grid, against rounding."""


class Attention(nn.Module):
    """Attention of all tokens to all tokens."""

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H)
        result: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return result


class Mlp(nn.Module):
    """Two linear maps of each token, with a GELU between them."""

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> the same shape."""
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class LayerScale(nn.Module):
    """A learned factor a channel, small at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> the same shape."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and linear maps, each behind a norm, scaled, and added to its input."""

    def __init__(self, channels: int, *, num_heads: int, hidden: int, path_dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, EPSILON)
        self.attn = Attention(channels, num_heads=num_heads)
        self.ls1 = LayerScale(channels)
        self.norm2 = nn.LayerNorm(channels, EPSILON)
        self.mlp = Mlp(channels, hidden=hidden)
        self.ls2 = LayerScale(channels)
        self.path_dropout = path_dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> the same shape."""
        x = self._added(x, lambda tokens: self.ls1(self.attn(self.norm1(tokens))))
        return self._added(x, lambda tokens: self.ls2(self.mlp(self.norm2(tokens))))

    def _added(self, x: Tensor, residual: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the residual; in training to some of the images alone, at random, and as much more to these."""
        kept = max(1, int(x.shape[0] * (1 - self.path_dropout)))
        if not self.training or kept == x.shape[0]:
            return x + residual(x)
        chosen = torch.randperm(x.shape[0], device=x.device)[:kept]
        return torch.index_add(x, 0, chosen, residual(x[chosen]).to(x.dtype), alpha=x.shape[0] / kept)


class PatchEmbed(nn.Module):
    """One token for each patch of an image: (B, C, Y, X) -> (B, D, Y / edge, X / edge)."""

    def __init__(self, in_channels: int, channels: int, *, edge: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, edge, stride=edge)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, D, Y / edge, X / edge)."""
        result: Tensor = self.proj(x)
        return result


class VisionTransformer(nn.Module):
    """The transformer, which returns the tokens after every block and after the last norm.

    Args:
        in_channels: channels of the image.
        channels: of a token.
        depth: number of blocks.
        num_heads: heads of each attention.
        patch_edge: pixels along an edge of a patch.
        grid_edge: patches along an edge of the images that position embeddings are of; interpolated for others.
        path_dropout: share of the images of a batch that a block leaves out in training.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        depth: int,
        num_heads: int,
        patch_edge: int,
        grid_edge: int,
        path_dropout: float,
    ) -> None:
        super().__init__()
        self.grid_edge = grid_edge
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid_edge**2, channels))
        # It stands for hidden patches in self-supervised training: inert, but its checkpoints have the key.
        self.mask_token = nn.Parameter(torch.zeros(1, channels), requires_grad=False)
        self.patch_embed = PatchEmbed(in_channels, channels, edge=patch_edge)
        self.blocks = nn.ModuleList(
            Block(channels, num_heads=num_heads, hidden=4 * channels, path_dropout=path_dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels, EPSILON)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, adapters: Iterable[Callable[[Tensor, tuple[int, int]], Tensor]]
    ) -> tuple[list[Tensor], Tensor]:
        """Images (B, C, Y, X) -> the tokens (B, N, D) behind each block and its adapter, and the last ones normalised.

        An adapter gets tokens, and how many rows and columns of patches they are.
        """
        patches = self.patch_embed(x)
        grid = (patches.shape[2], patches.shape[3])
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        tokens = tokens + self._positions(grid)
        found = []
        for block, adapter in zip(self.blocks, adapters, strict=True):
            tokens = adapter(block(tokens), grid)
            found.append(tokens)
        return found, self.norm(tokens)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings (1, N, D) of an image of so many rows and columns of patches."""
        if grid == (self.grid_edge, self.grid_edge):
            return self.pos_embed
        square = self.pos_embed[:, 1:].float().reshape(1, self.grid_edge, self.grid_edge, -1).permute(0, 3, 1, 2)
        scale = [(patches + OFFSET) / self.grid_edge for patches in grid]
        patches = F.interpolate(square, scale_factor=scale, mode="bicubic")
        patches = patches.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat((self.pos_embed[:, :1], patches), dim=1)
