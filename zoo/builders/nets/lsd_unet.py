"""The U-Net of local shape descriptors in plain PyTorch: no norms, few features that grow fast, strides per axis.

Sheridan et al., "Local shape descriptors for neuron segmentation", Nature Methods 2023,
https://doi.org/10.1038/s41592-022-01711-z. Names, shapes and arithmetic are those of the authors' U-Net
(https://github.com/funkelab/funlib.learn.torch, commit 228e15f, MIT) with `padding="same"`, under the name `unet` as
in their networks (https://github.com/funkelab/lsd). Where those have a head for affinities and one for descriptors on
the same features, this has one for all channels of the task: the same numbers.

Shapes: B batch, C channels at this level, Z, Y, X space at this level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Triple = tuple[int, ...]


class ConvPass(nn.Module):
    """Convolutions that keep the size, each with a ReLU unless it makes logits: (B, inputs, …) -> (B, outputs, …)."""

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[Triple], *, logits: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for z, y, x in kernels:
            layers.append(nn.Conv3d(inputs, outputs, (z, y, x), padding=(z // 2, y // 2, x // 2)))
            inputs = outputs
            if not logits:
                layers.append(nn.ReLU())
        self.conv_pass = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X)."""
        result: Tensor = self.conv_pass(x)
        return result


class Upsample(nn.Module):
    """Upsampling by a stride, without fewer channels, behind the skip connection: (B, C + skip, …)."""

    def __init__(self, channels: int, stride: Triple, *, how: Literal["nearest", "deconv"]) -> None:
        super().__init__()
        z, y, x = stride
        self.up = (
            nn.Upsample(scale_factor=(float(z), float(y), float(x)), mode="nearest")
            if how == "nearest"
            else nn.ConvTranspose3d(channels, channels, (z, y, x), stride=(z, y, x))
        )

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """The skip connection (B, C, Z, Y, X) and x (B, C', Z/sz, Y/sy, X/sx) -> (B, C + C', Z, Y, X)."""
        return torch.cat([skip, self.up(x)], dim=1)


class Ways(nn.Module):
    """The way down and the way up: (B, in_channels, Z, Y, X) -> (B, last_channels, Z, Y, X)."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: Sequence[int],
        last_channels: int,
        strides: Sequence[Triple],
        kernel_sizes: Sequence[Triple],
        upsampling: Literal["nearest", "deconv"],
    ) -> None:
        super().__init__()
        self.l_conv = nn.ModuleList(
            ConvPass(inputs, outputs, (kernel, kernel))
            for (inputs, outputs), kernel in zip(pairwise((in_channels, *channels)), kernel_sizes, strict=True)
        )
        self.l_down = nn.ModuleList(nn.MaxPool3d(stride) for stride in strides)
        ups = (Upsample(coarse, stride, how=upsampling) for coarse, stride in zip(channels[1:], strides, strict=True))
        passes = (
            ConvPass(fine + coarse, fine if level else last_channels, (kernel_sizes[level],) * 2)
            for level, (fine, coarse) in enumerate(pairwise(channels))
        )
        # The authors' network may have several ways up.
        self.r_up = nn.ModuleList([nn.ModuleList(ups)])
        self.r_conv = nn.ModuleList([nn.ModuleList(passes)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) -> (B, last_channels, Z, Y, X)."""
        skips = []
        for convolve, down in zip(self.l_conv, self.l_down, strict=False):
            skips.append(convolve(x))
            x = down(skips[-1])
        x = self.l_conv[-1](x)
        ups, passes = self.r_up[0].children(), self.r_conv[0].children()
        for skip, up, convolve in reversed(list(zip(skips, ups, passes, strict=True))):
            x = convolve(up(skip, x))
        return x


class LSDUNet(nn.Module):
    """The network: both ways, and a 1x1x1 convolution to the channels of the task.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: channels of each level, full resolution first.
        last_channels: channels that the way up ends with.
        strides: downsampling (z, y, x) from each level to the next.
        kernel_sizes: kernel (z, y, x) of both convolutions of each level, on either way.
        upsampling: repeat voxels, or a transposed convolution.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        last_channels: int,
        strides: Sequence[Triple],
        kernel_sizes: Sequence[Triple],
        upsampling: Literal["nearest", "deconv"],
    ) -> None:
        super().__init__()
        self.unet = Ways(
            in_channels=in_channels,
            channels=channels,
            last_channels=last_channels,
            strides=strides,
            kernel_sizes=kernel_sizes,
            upsampling=upsampling,
        )
        self.head = ConvPass(last_channels, out_channels, ((1, 1, 1),), logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) -> logits (B, out_channels, Z, Y, X)."""
        logits: Tensor = self.head(self.unet(x))
        return logits
