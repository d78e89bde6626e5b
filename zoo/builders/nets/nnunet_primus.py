"""Primus: an EVA-02 transformer over tokens of a few voxels, between two projections.

Architecture: Wald et al., "Primus: Enforcing Attention Usage for 3D Medical Image Segmentation" (2025),
https://arxiv.org/abs/2503.01835. Written after `Primus` of dynamic-network-architectures 0.4.4 (Apache-2.0,
https://github.com/MIC-DKFZ/dynamic-network-architectures) as nnU-Net's trainers make it, whose names of tensors it has.

Shapes: volumes (B, C, Z, Y, X); tokens (B, N, C), N of them, the last axis of their grid fastest; heads (B, H, N, D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_SCALE = 0.1
"""First factor of what a block adds to its input."""

TEMPERATURE = 10000.0
"""Largest wavelength of the rotary positions over the smallest."""


def rotary_table(grid: Sequence[int], head_dim: int) -> Tensor:
    """Return sine and cosine of the angle of each channel of a head at each token: (2, N, head_dim), on the CPU.

    Each axis has a third of the channels, in pairs of one frequency.
    """
    bands = head_dim // 6
    frequencies = 1.0 / TEMPERATURE ** (torch.arange(bands, dtype=torch.float32, device="cpu") / bands)
    # As the original scales positions to a reference grid, here its own; the rounding of it is kept.
    positions = [torch.arange(edge, dtype=torch.float32, device="cpu") / edge * edge for edge in grid]
    mesh = torch.stack(torch.meshgrid(positions, indexing="ij"), dim=-1).unsqueeze(-1)
    angles = (mesh * frequencies).reshape(math.prod(grid), -1).repeat_interleave(2, dim=-1)
    return torch.stack((angles.sin(), angles.cos()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate each pair of channels of `x` (B, H, N, D) by the angles of `table` (2, N, D)."""
    sine, cosine = table
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).reshape(x.shape)
    result: Tensor = x * cosine + turned * sine
    return result


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None, None] * x + self.bias[:, None, None, None]


class Attention(nn.Module):
    """Self-attention with rotary positions, whose result is normalised before it is projected."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, N, C) -> the same shape."""
        batch, tokens, channels = x.shape
        query, key, value = (
            projection(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = (rotate(item, table).type_as(value) for item in (query, key))
        attended = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(self.norm(attended.transpose(1, 2).reshape(batch, tokens, channels)))
        return result


class GatedLayer(nn.Module):
    """Two linear layers, the first of which is gated and normalised (SwiGLU)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(channels, hidden)
        self.fc1_x = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> the same shape."""
        result: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return result


class Block(nn.Module):
    """Attention and a gated layer, each added to its input, unless it is left out for a sample in training."""

    def __init__(self, channels: int, heads: int, hidden: int, left_out: float) -> None:
        super().__init__()
        self.left_out = left_out
        self.gamma_1 = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.gamma_2 = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = GatedLayer(channels, hidden)

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training or self.left_out == 0:
            return x
        kept = x.new_empty((x.shape[0], 1, 1)).bernoulli_(1 - self.left_out)
        return x * kept / (1 - self.left_out)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, N, C) -> the same shape."""
        x = x + self._dropped(self.gamma_1 * self.attn(self.norm1(x), table))
        return x + self._dropped(self.gamma_2 * self.mlp(self.norm2(x)))


class Transformer(nn.Module):
    """The blocks, with learned positions before them and rotary ones in each."""

    rotary: Tensor

    def __init__(
        self, *, grid: Sequence[int], channels: int, depth: int, heads: int, hidden: int, path_dropout: float
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(grid), channels))
        rates = [path_dropout * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(Block(channels, heads, hidden, rate) for rate in rates)
        self.norm = nn.LayerNorm(channels)
        table = rotary_table(grid, channels // heads)
        # Copied to the default device, which may be `meta`, where to compute costs seconds of imports.
        self.register_buffer("rotary", torch.empty(table.shape).copy_(table), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal, narrower in the deeper blocks where these add to their input."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for depth, block in enumerate(self.blocks, start=1):
            for name, module in block.named_modules():
                if isinstance(module, nn.Linear):
                    adds = name in ("attn.proj", "mlp.fc2")
                    nn.init.trunc_normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if adds else 0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> the same shape."""
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, self.rotary)
        result: Tensor = self.norm(x)
        return result


class TokenEmbedding(nn.Module):
    """One convolution that makes a token of each box of voxels."""

    def __init__(self, inputs: int, channels: int, token: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(inputs, channels, token, token)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> one voxel a token."""
        result: Tensor = self.proj(x)
        return result


class TokenDecoder(nn.Module):
    """Transposed convolutions that double the resolution until a token is voxels again."""

    def __init__(self, channels: int, outputs: int, token: Sequence[int]) -> None:
        super().__init__()
        count = max(token).bit_length() - 1
        ratio = (channels / (2 * outputs)) ** (1 / count)
        widths = [channels, *(_round_to_8(channels / ratio ** (stage + 1)) for stage in range(count - 1)), outputs]
        strides = [_halved(token, stage) for stage in reversed(range(count))]
        stages: list[nn.Module] = []
        for index, ((width, wanted), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
            doubling = nn.ConvTranspose3d(width, wanted, stride, stride)
            last = index == count - 1
            stages.append(doubling if last else nn.Sequential(doubling, ChannelNorm(wanted), nn.GELU()))
        self.decode = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """One voxel a token -> (B, outputs, Z, Y, X)."""
        result: Tensor = self.decode(x)
        return result


def _halved(token: Sequence[int], stage: int) -> tuple[int, int, int]:
    """Return the doubling along each axis that undoes the halving of `token` at `stage`."""
    z, y, x = (2 if edge >> stage > 1 else 1 for edge in token)
    return z, y, x


def _round_to_8(width: float) -> int:
    return max(8, round((width + 1e-6) / 8) * 8)


class Primus(nn.Module):
    """The network; what it is given is in `zoo.builders.nnunet_primus.Config`."""

    mask_token: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        grid: Sequence[int],
        token_size: tuple[int, int, int],
        embed_dim: int,
        hidden_dim: int,
        depth: int,
        num_heads: int,
        path_dropout: float,
    ) -> None:
        super().__init__()
        self.down_projection = TokenEmbedding(in_channels, embed_dim, token_size)
        self.up_projection = TokenDecoder(embed_dim, out_channels, token_size)
        self.eva = Transformer(
            grid=grid,
            channels=embed_dim,
            depth=depth,
            heads=num_heads,
            hidden=hidden_dim,
            path_dropout=path_dropout,
        )
        # In the original it stands for tokens that are dropped in pretraining: kept for its checkpoints' sake.
        self.register_buffer("mask_token", torch.zeros(1, 1, embed_dim))
        for part in (self.down_projection, self.up_projection):
            for module in part.modules():
                if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                    nn.init.kaiming_normal_(module.weight, a=0.01)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> logits."""
        x = self.down_projection(x)
        tokens = self.eva(x.flatten(2).transpose(1, 2))
        result: Tensor = self.up_projection(tokens.transpose(1, 2).reshape(x.shape))
        return result
