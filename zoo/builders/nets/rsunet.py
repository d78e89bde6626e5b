"""The residual symmetric U-Net (RSUNet) in plain PyTorch: pre-activation blocks, summed skips, fixed upsampling.

Lee et al., "Superhuman Accuracy on the SNEMI3D Connectomics Challenge", 2017, https://arxiv.org/abs/1706.00120,
after its authors' https://github.com/torms3/pytorch-emvision (commit 4f8591f) and https://github.com/seung-lab/DeepEM
(commit dda5b74). Names and shapes of the parameters are those of PyTorch Connectomics' `RSUNet`, so that its
checkpoints load without a map; `stem` is DeepEM's `in.conv`, which PyTorch Connectomics lacks.

Shapes: B batch, C channels at this level, Z, Y, X space at this level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.builders._shared import largest_divisor

Kernel = tuple[int, ...]
Norm = Literal["batch", "group", "instance", "none"]
Activation = Literal["relu", "leakyrelu", "prelu", "elu"]


class NormAct(nn.Module):
    """Normalisation and activation."""

    def __init__(self, channels: int, *, norm: Norm, num_groups: int, activation: Activation, slope: float) -> None:
        super().__init__()
        self.norm: nn.Module
        if norm == "batch":
            self.norm = nn.BatchNorm3d(channels)
        elif norm == "group":
            self.norm = nn.GroupNorm(largest_divisor(channels, num_groups), channels)
        elif norm == "instance":
            self.norm = nn.InstanceNorm3d(channels)
        else:
            self.norm = nn.Identity()
        self.act: nn.Module
        if activation == "relu":
            self.act = nn.ReLU()
        elif activation == "leakyrelu":
            self.act = nn.LeakyReLU(slope)
        elif activation == "prelu":
            self.act = nn.PReLU(init=slope)
        else:
            self.act = nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        result: Tensor = self.act(self.norm(x))
        return result


class LinearUpsampling(nn.Module):
    """Linear interpolation as a transposed convolution with fixed weights; outside the volume lies zero.

    The weights are a buffer of the state dict. PyTorch Connectomics fills them with the product of the y and x
    profiles alone, which multiplies the result by z's factor; a checkpoint from there brings those weights along and
    computes what it was trained with.
    """

    weight: Tensor

    def __init__(self, channels: int, factor: Kernel) -> None:
        super().__init__()
        self.factor = factor
        self.padding = tuple(math.ceil((step - 1) / 2) for step in factor)
        with torch.device("cpu"):  # the first sum on the meta device takes a second: torch imports its compiler
            z, y, x = (self._profile(step) for step in factor)
            kernel = (z[:, None, None] * y[:, None] * x).tolist()
        self.register_buffer("weight", torch.tensor([[kernel]] * channels))  # (C, 1, kz, ky, kx)

    @staticmethod
    def _profile(step: int) -> Tensor:
        """The triangle of linear interpolation by `step` along one axis: 2 * step taps, less one where that is odd."""
        taps = 2 * step - step % 2
        half = math.ceil(taps / 2)
        return 1 - (torch.arange(taps) / half - (taps - 1) / (2 * half)).abs()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, C, fz*Z, fy*Y, fx*X)."""
        return F.conv_transpose3d(x, self.weight, stride=self.factor, padding=self.padding, groups=self.weight.shape[0])


def convolution(inputs: int, outputs: int, kernel: Kernel, *, bias: bool = False) -> nn.Conv3d:
    """A convolution that keeps the size."""
    z, y, x = kernel
    return nn.Conv3d(inputs, outputs, (z, y, x), padding=(z // 2, y // 2, x // 2), bias=bias)


class ResBlock(nn.Module):
    """Two pre-activated convolutions, and the input added to their result."""

    def __init__(self, channels: int, kernel: Kernel, norm_act: Callable[[int], NormAct]) -> None:
        super().__init__()
        self.norm_act1 = norm_act(channels)
        self.conv1 = convolution(channels, channels, kernel)
        self.norm_act2 = norm_act(channels)
        self.conv2 = convolution(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        hidden = self.conv1(self.norm_act1(x))
        result: Tensor = x + self.conv2(self.norm_act2(hidden))
        return result


class Block(nn.Sequential):
    """A pre-activated convolution, a residual block and another convolution: (B, inputs, …) -> (B, channels, …)."""

    def __init__(self, inputs: int, channels: int, kernel: Kernel, norm_act: Callable[[int], NormAct]) -> None:
        super().__init__()
        self.pre = nn.Sequential(norm_act(inputs), convolution(inputs, channels, kernel))
        self.res = ResBlock(channels, kernel, norm_act)
        self.post = nn.Sequential(norm_act(channels), convolution(channels, channels, kernel))


class DownBlock(nn.Module):
    """Max pooling and a block."""

    def __init__(self, stride: Kernel, block: Block) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d(stride)
        self.conv = block

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, C', Z/sz, Y/sy, X/sx)."""
        result: Tensor = self.conv(self.pool(x))
        return result


class UpBlock(nn.Module):
    """Upsampling, projection to the finer level's channels, the skip connection's sum, and a block."""

    def __init__(self, inputs: int, channels: int, stride: Kernel, block: Block) -> None:
        super().__init__()
        self.up = LinearUpsampling(inputs, stride)
        self.proj = convolution(inputs, channels, (1, 1, 1))
        self.conv = block

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C', Z/sz, Y/sy, X/sx) and the skip (B, C, Z, Y, X) -> (B, C, Z, Y, X)."""
        result: Tensor = self.conv(self.proj(self.up(x)) + skip)
        return result


class RSUNet(nn.Module):
    """The network: a block at full resolution, a block after each pooling, and a block after each upsampling.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every output.
        channels: channels of each level, full resolution first.
        strides: downsampling (z, y, x) from each level to the next.
        kernel_sizes: kernel (z, y, x) of each level, odd.
        stem_kernel_size: kernel of the convolution that embeds the input, or None for none.
        head_kernel_size: kernel of the convolution that makes the logits at full resolution.
        norm: normalisation before each activation.
        num_groups: groups of norm `group`, or the next smaller number that divides the channels.
        activation: activation before each convolution.
        slope: slope below zero of `leakyrelu`, or the initial one of `prelu`.
        supervised: levels that have a deep-supervision head, from fine to coarse.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Kernel],
        kernel_sizes: Sequence[Kernel],
        stem_kernel_size: Kernel | None,
        head_kernel_size: Kernel,
        norm: Norm,
        num_groups: int,
        activation: Activation,
        slope: float,
        supervised: Sequence[int],
    ) -> None:
        super().__init__()
        self.supervised = tuple(supervised)

        def norm_act(width: int) -> NormAct:
            return NormAct(width, norm=norm, num_groups=num_groups, activation=activation, slope=slope)

        def block(inputs: int, level: int) -> Block:
            return Block(inputs, channels[level], kernel_sizes[level], norm_act)

        self.stem = None if stem_kernel_size is None else convolution(in_channels, channels[0], stem_kernel_size)
        self.input_conv = block(in_channels if self.stem is None else channels[0], 0)
        levels = range(1, len(channels))
        self.down_blocks = nn.ModuleList(
            DownBlock(strides[level - 1], block(channels[level - 1], level)) for level in levels
        )
        self.up_blocks = nn.ModuleList(
            UpBlock(channels[level], channels[level - 1], strides[level - 1], block(channels[level - 1], level - 1))
            for level in reversed(levels)
        )
        self.final_norm = norm_act(channels[0])
        self.output_head = convolution(channels[0], out_channels, head_kernel_size, bias=True)
        if self.supervised:
            self.ds_heads = nn.ModuleList(
                convolution(channels[level], out_channels, (1, 1, 1), bias=True) for level in reversed(self.supervised)
            )
        self._initialise(activation, slope)

    def _initialise(self, activation: Activation, slope: float) -> None:
        """He initialisation of every convolution, as in the authors' code; biases are zero."""
        leak = slope if activation in ("leakyrelu", "prelu") else 0.0
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=leak, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, in_channels, Z, Y, X) -> logits (B, out_channels, Z, Y, X).

        In training with deep supervision: `{"output": …, "ds_1": …, …}`, from fine to coarse.
        """
        x = self.input_conv(x if self.stem is None else self.stem(x))
        skips = []
        for down in self.down_blocks:
            skips.append(x)
            x = down(x)
        features = {len(skips): x}  # by level, of the decoder
        for up in self.up_blocks:
            x = up(x, skips.pop())
            features[len(skips)] = x
        output: Tensor = self.output_head(self.final_norm(x))
        if not (self.training and self.supervised):
            return output
        outputs = {"output": output}
        for index, (level, head) in enumerate(zip(self.supervised, reversed(self.ds_heads), strict=True), start=1):
            outputs[f"ds_{index}"] = head(features[level])
        return outputs
