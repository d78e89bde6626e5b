"""The U-Nets of pytorch-3dunet in plain PyTorch: double convolutions, residual blocks, and residual blocks that excite.

Wolny et al., "Accurate and versatile 3D segmentation of plant tissues at cellular resolution", eLife 2020,
https://doi.org/10.7554/eLife.57613; the U-Net is that of Çiçek et al. 2016, the residual blocks follow Lee et al. 2017.
Names, shapes and arithmetic are those of the package pytorch3dunet (https://github.com/wolny/pytorch-3dunet, release
1.9.6, MIT), so that its checkpoints load without a map; the activation at its end belongs to the task here.

Shapes: B batch, C channels at this level, Z, Y, X space at this level (Y, X in 2-D).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Block = Literal["double", "residual", "residual-se"]
Upsampling = Literal["nearest", "linear", "deconv"]

ACTIVATIONS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "r": ("ReLU", lambda: nn.ReLU(inplace=True)),
    "l": ("LeakyReLU", lambda: nn.LeakyReLU(inplace=True)),
    "e": ("ELU", lambda: nn.ELU(inplace=True)),
}
"""The original's letters, and the names that it gives the layers."""


@dataclass(frozen=True)
class Layers:
    """What stands around each convolution."""

    order: str
    """Letters: `c` the convolution, `g` group norm, `b` batch norm, `d` dropout, and those of `ACTIVATIONS`."""
    num_groups: int
    """Groups of `g`, or one where there are fewer channels."""
    dropout: float
    """Probability of `d`."""
    spatial_dims: Literal[2, 3]


class SingleConv(nn.Sequential):
    """A convolution and its layers, in their order: (B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X)."""

    def __init__(self, inputs: int, outputs: int, layers: Layers, *, order: str | None = None) -> None:
        super().__init__()
        order = layers.order if order is None else order
        conv = nn.Conv3d if layers.spatial_dims == 3 else nn.Conv2d
        batch_norm = nn.BatchNorm3d if layers.spatial_dims == 3 else nn.BatchNorm2d
        for position, letter in enumerate(order):
            width = inputs if position < order.index("c") else outputs
            if letter == "c":
                self.conv = conv(inputs, outputs, 3, padding=1, bias="g" not in order and "b" not in order)
            elif letter == "g":
                self.groupnorm = nn.GroupNorm(1 if width < layers.num_groups else layers.num_groups, width)
            elif letter == "b":
                self.batchnorm = batch_norm(width)
            elif letter == "d":
                self.dropout = nn.Dropout(layers.dropout)
            else:
                name, make = ACTIVATIONS[letter]
                self.add_module(name, make())


class DoubleConv(nn.Sequential):
    """Two convolutions, of which an encoder's first makes half of the channels: (B, inputs, …) -> (B, outputs, …)."""

    def __init__(self, inputs: int, outputs: int, layers: Layers, *, encoder: bool) -> None:
        super().__init__()
        middle = max(inputs, outputs // 2) if encoder else outputs
        self.SingleConv1 = SingleConv(inputs, middle, layers)
        self.SingleConv2 = SingleConv(middle, outputs, layers)


class ResNetBlock(nn.Module):
    """Two convolutions, and what they got added to their result: (B, inputs, …) -> (B, outputs, …)."""

    def __init__(self, inputs: int, outputs: int, layers: Layers) -> None:
        super().__init__()
        conv = nn.Conv3d if layers.spatial_dims == 3 else nn.Conv2d
        self.conv1 = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)
        self.conv2 = SingleConv(outputs, outputs, layers)
        self.conv3 = SingleConv(outputs, outputs, layers, order=layers.order.translate(dict.fromkeys(map(ord, "rle"))))
        self.non_linearity: nn.Module
        if "l" in layers.order:
            self.non_linearity = nn.LeakyReLU(0.1, inplace=True)
        else:
            self.non_linearity = nn.ELU(inplace=True) if "e" in layers.order else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X)."""
        residual = self.conv1(x)
        result: Tensor = self.non_linearity(self.conv3(self.conv2(residual)) + residual)
        return result


class ChannelExcitation(nn.Module):
    """Each channel times a factor that follows from the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        factors: Tensor = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3, 4))))))
        return x * factors[:, :, None, None, None]


class SpatialExcitation(nn.Module):
    """Each voxel times a factor that follows from its channels (Roy et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        return x * torch.sigmoid(self.conv(x))


class Excitation(nn.Module):
    """The larger of both excitations, value by value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cSE = ChannelExcitation(channels)
        self.sSE = SpatialExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        return torch.maximum(self.cSE(x), self.sSE(x))


class ResNetBlockSE(ResNetBlock):
    """A residual block with an excitation behind it."""

    def __init__(self, inputs: int, outputs: int, layers: Layers) -> None:
        super().__init__(inputs, outputs, layers)
        self.se_module = Excitation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X)."""
        result: Tensor = self.se_module(super().forward(x))
        return result


def _block(block: Block, inputs: int, outputs: int, layers: Layers, *, encoder: bool) -> nn.Module:
    if block == "double":
        return DoubleConv(inputs, outputs, layers, encoder=encoder)
    return (ResNetBlock if block == "residual" else ResNetBlockSE)(inputs, outputs, layers)


class Encoder(nn.Module):
    """Max pooling, but at full resolution, and a block: (B, C, Z, Y, X) -> (B, C', Z/2, Y/2, X/2), rounded down."""

    def __init__(self, basic_module: nn.Module, *, pooling: nn.Module | None) -> None:
        super().__init__()
        self.pooling = pooling
        self.basic_module = basic_module

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, C', Z', Y', X')."""
        result: Tensor = self.basic_module(x if self.pooling is None else self.pooling(x))
        return result


class Interpolation(nn.Module):
    """Interpolation to a size: (B, C, …) -> (B, C, *size)."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, C, Z, Y, X) -> (B, C, *size)."""
        return F.interpolate(x, size=size, mode=self.mode)


class TransposedConvolution(nn.Module):
    """A transposed convolution of stride 2, which gives 2n - 1 voxels, and the nearest of them for each of `size`."""

    def __init__(self, inputs: int, outputs: int, *, spatial_dims: Literal[2, 3]) -> None:
        super().__init__()
        transposed = nn.ConvTranspose3d if spatial_dims == 3 else nn.ConvTranspose2d
        self.conv_transposed = transposed(inputs, outputs, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, *size)."""
        return F.interpolate(self.conv_transposed(x), size=size)


class Upsampled(nn.Module):
    """Holds the upsampling under the name that it has in checkpoints."""

    def __init__(self, upsample: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, *size)."""
        result: Tensor = self.upsample(x, size)
        return result


class Decoder(nn.Module):
    """Upsampling to the skip connection's size, both joined (or added), and a block."""

    def __init__(self, upsampling: nn.Module, basic_module: nn.Module, *, added: bool) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.basic_module = basic_module
        self.added = added

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """The skip connection (B, C, Z, Y, X) and x of the level below -> (B, C, Z, Y, X)."""
        x = self.upsampling(x, skip.shape[2:])
        result: Tensor = self.basic_module(skip + x if self.added else torch.cat((skip, x), dim=1))
        return result


class UNet(nn.Module):
    """The network: encoders, decoders that join (`double`) or add the skip connections, and a 1x1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: channels of each level, full resolution first.
        block: what each level is made of.
        upsampling: how a decoder reaches the size of the level above.
        layers: what stands around each convolution.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        block: Block,
        upsampling: Upsampling,
        layers: Layers,
    ) -> None:
        super().__init__()
        dims = layers.spatial_dims
        pool, conv = (nn.MaxPool3d, nn.Conv3d) if dims == 3 else (nn.MaxPool2d, nn.Conv2d)
        self.encoders = nn.ModuleList(
            Encoder(
                _block(block, inputs, outputs, layers, encoder=True),
                pooling=None if level == 0 else pool(2),
            )
            for level, (inputs, outputs) in enumerate(pairwise((in_channels, *channels)))
        )
        added = block != "double"

        def decoder(coarse: int, fine: int) -> Decoder:
            upsample: nn.Module
            if upsampling == "deconv":
                upsample = TransposedConvolution(coarse, fine, spatial_dims=dims)
            else:
                upsample = Interpolation(
                    {"nearest": "nearest", "linear": "trilinear" if dims == 3 else "bilinear"}[upsampling]
                )
            joined = fine + (fine if upsampling == "deconv" else coarse)
            basic = _block(block, fine if added else joined, fine, layers, encoder=False)
            return Decoder(Upsampled(upsample), basic, added=added)

        self.decoders = nn.ModuleList(decoder(coarse, fine) for coarse, fine in pairwise(reversed(channels)))
        self.final_conv = conv(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) -> logits (B, out_channels, Z, Y, X)."""
        features = []
        for encoder in self.encoders:
            x = encoder(x)
            features.append(x)
        for decoder, skip in zip(self.decoders, reversed(features[:-1]), strict=True):
            x = decoder(skip, x)
        logits: Tensor = self.final_conv(x)
        return logits
