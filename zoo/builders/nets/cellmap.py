"""CellMap's U-Net: valid convolutions and ReLU, max pooling, crops that keep it equivariant to shifts by its strides.

Shapes: B batch, C channels, (Z, Y, X) voxels; each level has its own, and each convolution takes some away.

Written after the description of CNNectome's networks in Heinrich et al., "Whole-cell organelle segmentation in volume
electron microscopy", Nature 599 (2021), with the names of tensors that the package cellmap-models 0.2.4 (BSD-3-Clause)
has, so that its weights load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Triple = Sequence[int]


class ConvPass(nn.Module):
    """Convolutions with valid padding, a ReLU after each."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[Triple]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kernel in kernel_sizes:
            layers += [nn.Conv3d(in_channels, out_channels, tuple(kernel)), nn.ReLU()]  # type: ignore[arg-type]
            in_channels = out_channels
        self.conv_pass = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z', Y', X')."""
        y: Tensor = self.conv_pass(x)
        return y


class Upsample(nn.Module):
    """Makes each voxel a block of `stride` voxels."""

    def __init__(self, in_channels: int, out_channels: int, stride: Triple, *, how: str) -> None:
        super().__init__()
        factors = tuple(stride)
        nearest = nn.Upsample(scale_factor=tuple(map(float, factors)), mode="nearest")
        self.up: nn.Module
        if how == "transposed":
            self.up = nn.ConvTranspose3d(in_channels, out_channels, factors, stride=factors)  # type: ignore[arg-type]
        elif how == "nearest_conv":
            self.up = nn.Sequential(nearest, nn.Conv3d(in_channels, out_channels, 1))
        else:
            assert how == "nearest", how
            self.up = nearest

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z * stride, …)."""
        y: Tensor = self.up(x)
        return y


class _Ways(nn.Module):
    """The U-Net without what comes after it; ways down are `l_…`, up `r_…`, of which there is one decoder."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: Sequence[int],
        up_channels: Sequence[int],
        strides: Sequence[Triple],
        kernel_sizes: Sequence[Sequence[Triple]],
        up_kernel_sizes: Sequence[Sequence[Triple]],
        upsampling: str,
    ) -> None:
        super().__init__()
        self.strides = [tuple(stride) for stride in strides]
        self.lost = [
            tuple(sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3)) for kernels in up_kernel_sizes
        ]
        """What the convolutions of each level take away on the way up."""
        inputs = (in_channels, *channels[:-1])
        self.l_conv = nn.ModuleList(
            ConvPass(inputs[level], width, kernel_sizes[level]) for level, width in enumerate(channels)
        )
        coarse = (*up_channels[1:], channels[-1])
        upsampled = coarse if upsampling == "nearest" else up_channels
        ups = [
            Upsample(coarse[level], upsampled[level], stride, how=upsampling) for level, stride in enumerate(strides)
        ]
        passes = [
            ConvPass(channels[level] + upsampled[level], width, up_kernel_sizes[level])
            for level, width in enumerate(up_channels)
        ]
        self.r_up = nn.ModuleList([nn.ModuleList(ups)])
        self.r_conv = nn.ModuleList([nn.ModuleList(passes)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z', Y', X')."""
        skipped = []
        for convolutions, stride in zip(self.l_conv, self.strides, strict=False):
            x = convolutions(x)
            skipped.append(x)
            x = F.max_pool3d(x, stride, stride)
        x = self.l_conv[-1](x)
        ups, passes = self.r_up[0], self.r_conv[0]
        for level in reversed(range(len(self.strides))):
            x = ups[level](x)  # type: ignore[index]
            x = _cropped(x, self._kept(tuple(x.shape[2:]), level))
            x = torch.cat([_cropped(skipped.pop(), tuple(x.shape[2:])), x], dim=1)
            x = passes[level](x)  # type: ignore[index]
        return x

    def _kept(self, size: tuple[int, ...], level: int) -> tuple[int, ...]:
        """Return the largest size of which the convolutions of `level` leave a multiple of the strides below it."""
        factors = [math.prod(stride[axis] for stride in self.strides[level:]) for axis in range(3)]
        return tuple(
            (edge - lost) // factor * factor + lost
            for edge, lost, factor in zip(size, self.lost[level], factors, strict=True)
        )


def _cropped(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the middle of x (B, C, Z, Y, X); of an odd number of voxels that are left out, more behind it."""
    for axis, edge in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - edge) // 2, edge)
    return x


class CellMapUNet(nn.Module):
    """The U-Net, its upsampling and convolutions at the resolution of the output, and the logits.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: of each level on the way down.
        up_channels: of each level but the coarsest on the way up.
        strides: (z, y, x) from each level to the next.
        kernel_sizes: of the convolutions of each level on the way down.
        up_kernel_sizes: of those on the way up.
        upsampling: `nearest`, `nearest_conv` or `transposed`.
        output_stride: of the upsampling after the U-Net, before which the image is averaged over such blocks; None
            leaves it out.
        head_kernel_sizes: of the convolutions after it.
        head_channels: their channels.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        up_channels: Sequence[int],
        strides: Sequence[Triple],
        kernel_sizes: Sequence[Sequence[Triple]],
        up_kernel_sizes: Sequence[Sequence[Triple]],
        upsampling: str,
        output_stride: Triple | None,
        head_kernel_sizes: Sequence[Triple],
        head_channels: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _Ways(
                in_channels=in_channels,
                channels=channels,
                up_channels=up_channels,
                strides=strides,
                kernel_sizes=kernel_sizes,
                up_kernel_sizes=up_kernel_sizes,
                upsampling=upsampling,
            )
        ]
        width = up_channels[0]
        self.pooling = (1, 1, 1) if output_stride is None else tuple(output_stride)
        if output_stride is not None:
            how = "transposed" if upsampling == "transposed" else "nearest_conv"
            layers.append(Upsample(width, width, output_stride, how=how))
        if head_kernel_sizes:
            layers.append(ConvPass(width, head_channels, head_kernel_sizes))
            width = head_channels
        self.backbone = nn.Sequential(*layers)
        self.prediction_head = nn.Conv3d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z - 2 * context, …)."""
        if max(self.pooling) > 1:
            x = F.avg_pool3d(x, self.pooling, self.pooling)
        y: Tensor = self.prediction_head(self.backbone(x))
        return y
