"""The U-Nets of nnU-Net: a plain or residual encoder, transposed convolutions, and a head on every scale.

Architecture: Isensee et al., "nnU-Net Revisited" (MICCAI 2024), https://arxiv.org/abs/2404.09556. Written after
`ResidualEncoderUNet` and `PlainConvUNet` of dynamic-network-architectures 0.4.4 (Apache-2.0,
https://github.com/MIC-DKFZ/dynamic-network-architectures), whose names of tensors it has, each once: the original's
state dicts repeat every one of them, as `all_modules.*` beside `conv` and `norm`, and the encoder's as
`decoder.encoder.*`.

Shapes: (B, C, Z, Y, X), or (B, C, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
DROPOUTS: dict[int, Any] = {2: nn.Dropout2d, 3: nn.Dropout3d}
NORMS: dict[str, dict[int, Any]] = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}


@dataclass(frozen=True)
class Layers:
    """What all convolutions of a network share."""

    dims: int
    bias: bool
    norm: str
    norm_affine: bool
    norm_epsilon: float
    activation: str
    negative_slope: float
    activation_first: bool
    dropout: float

    def make_norm(self, channels: int) -> nn.Module | None:
        """Return a new norm over `channels`, None where there is none."""
        if self.norm == "none":
            return None
        norm: nn.Module = NORMS[self.norm][self.dims](channels, eps=self.norm_epsilon, affine=self.norm_affine)
        return norm

    def make_activation(self) -> nn.Module:
        """Return a new activation."""
        match self.activation:
            case "leakyrelu":
                return nn.LeakyReLU(self.negative_slope, inplace=True)
            case "relu":
                return nn.ReLU(inplace=True)
            case "swish":
                return nn.SiLU(inplace=True)
        return nn.GELU()


class ConvNormAct(nn.Module):
    """Convolution, dropout, norm and activation, of which any but the first may be absent."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
        *,
        bias: bool,
        dropout: float = 0.0,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[layers.dims](
            inputs, outputs, tuple(kernel), stride, padding=tuple((edge - 1) // 2 for edge in kernel), bias=bias
        )
        self.dropout = DROPOUTS[layers.dims](dropout, inplace=True) if dropout else None
        self.norm = layers.make_norm(outputs)
        self.nonlin = layers.make_activation() if activation else None
        self.activation_first = layers.activation_first

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, …) -> (B, outputs, …)."""
        x = self.conv(x)
        if self.dropout is not None:
            x = self.dropout(x)
        order = (self.nonlin, self.norm) if self.activation_first else (self.norm, self.nonlin)
        for layer in order:
            if layer is not None:
                x = layer(x)
        return x


class Stack(nn.Module):
    """Convolutions one after the other, the first of which may change resolution and channels."""

    def __init__(
        self,
        layers: Layers,
        count: int,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvNormAct(
                    layers,
                    outputs if index else inputs,
                    outputs,
                    kernel,
                    1 if index else stride,
                    bias=layers.bias,
                    dropout=layers.dropout,
                )
                for index in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, …) -> (B, outputs, …)."""
        result: Tensor = self.convs(x)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions, or with `inner` channels three (1, k, 1), around which the input is pooled and projected.

    This is ResNet-D (He et al., 2019): the way around pools before it projects.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        inner: int | None,
    ) -> None:
        super().__init__()
        one = (1,) * layers.dims
        bias, dropout = layers.bias, layers.dropout
        self.conv3: ConvNormAct | None = None
        if inner is None:
            self.conv1 = ConvNormAct(layers, inputs, outputs, kernel, tuple(stride), bias=bias, dropout=dropout)
            self.conv2 = ConvNormAct(layers, outputs, outputs, kernel, bias=bias, activation=False)
        else:
            self.conv1 = ConvNormAct(layers, inputs, inner, one, bias=bias)
            self.conv2 = ConvNormAct(layers, inner, inner, kernel, tuple(stride), bias=bias, dropout=dropout)
            self.conv3 = ConvNormAct(layers, inner, outputs, one, bias=bias, activation=False)
        around: list[nn.Module] = []
        if max(stride) > 1:
            around.append(POOLS[layers.dims](tuple(stride), tuple(stride)))
        if inputs != outputs:
            around.append(ConvNormAct(layers, inputs, outputs, one, bias=False, activation=False))
        self.skip = nn.Sequential(*around)
        self.nonlin = layers.make_activation()

    @property
    def last_norm(self) -> nn.Module | None:
        """The norm before the addition."""
        return (self.conv2 if self.conv3 is None else self.conv3).norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, …) -> (B, outputs, …)."""
        around = self.skip(x)
        x = self.conv2(self.conv1(x))
        if self.conv3 is not None:
            x = self.conv3(x)
        result: Tensor = self.nonlin(x + around)
        return result


class ResidualStage(nn.Module):
    """The residual blocks of a level."""

    def __init__(
        self,
        layers: Layers,
        count: int,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        inner: int | None,
    ) -> None:
        super().__init__()
        one = (1,) * layers.dims
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    layers, outputs if index else inputs, outputs, kernel, one if index else stride, inner=inner
                )
                for index in range(count)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, …) -> (B, outputs, …)."""
        result: Tensor = self.blocks(x)
        return result


class Encoder(nn.Module):
    """All levels down to the coarsest, each of which is returned."""

    def __init__(self, stem: nn.Module | None, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, …) -> the features of every level, full resolution first."""
        if self.stem is not None:
            x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """All levels up from the coarsest, with a head on each that `heads` names."""

    def __init__(
        self, stages: Sequence[nn.Module], transposed: Sequence[nn.Module], heads: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleDict(heads)

    def forward(self, features: list[Tensor], every_scale: bool) -> list[Tensor]:
        """Features, full resolution first -> logits, full resolution first, and of that alone unless `every_scale`."""
        x = features[-1]
        outputs = []
        for index, (transposed, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            x = stage(torch.cat((transposed(x), features[-index - 2]), dim=1))
            if every_scale or index == len(self.stages) - 1:
                outputs.append(self.seg_layers[str(index)](x))
        return outputs[::-1]


class NNUNet(nn.Module):
    """nnU-Net's U-Net; `encoder` and all fields that follow are those of `zoo.builders.nnunet_unet.Config`."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool,
        encoder: str,
        channels: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        encoder_blocks: Sequence[int],
        decoder_blocks: Sequence[int],
        bias: bool,
        norm: str,
        norm_affine: bool,
        norm_epsilon: float,
        activation: str,
        negative_slope: float,
        activation_first: bool,
        dropout: float,
        stem_channels: int | None,
        bottleneck_channels: Sequence[int] | None,
    ) -> None:
        super().__init__()
        dims = len(kernel_sizes[0])
        layers = Layers(
            dims, bias, norm, norm_affine, norm_epsilon, activation, negative_slope, activation_first, dropout
        )
        self.deep_supervision = deep_supervision
        stem = None
        inputs = in_channels
        if encoder == "residual":
            stem = Stack(layers, 1, inputs, stem_channels or channels[0], kernel_sizes[0])
            inputs = stem_channels or channels[0]
        inner: Sequence[int | None] = bottleneck_channels or [None] * len(channels)
        stages: list[nn.Module] = []
        for index, (count, width, kernel, stride) in enumerate(
            zip(encoder_blocks, channels, kernel_sizes, [(1,) * dims, *strides], strict=True)
        ):
            if encoder == "residual":
                stages.append(ResidualStage(layers, count, inputs, width, kernel, stride, inner=inner[index]))
            else:
                stages.append(nn.Sequential(Stack(layers, count, inputs, width, kernel, tuple(stride))))
            inputs = width
        self.encoder = Encoder(stem, stages)
        up: list[nn.Module] = []
        merged: list[nn.Module] = []
        heads: dict[str, nn.Module] = {}
        for index, count in enumerate(decoder_blocks):
            fine = len(channels) - 2 - index
            width, stride = channels[fine], tuple(strides[fine])
            up.append(TRANSPOSED[dims](channels[fine + 1], width, stride, stride, bias=bias))
            merged.append(Stack(layers, count, 2 * width, width, kernel_sizes[fine]))
            if deep_supervision or fine == 0:
                heads[str(index)] = CONVOLUTIONS[dims](width, out_channels, 1)
        self.decoder = Decoder(merged, up, heads)
        self._initialise()

    def _initialise(self) -> None:
        """Fill kernels as He et al. (2015) do, and let every residual block begin as the way around it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock) and module.last_norm is not None:
                for parameter in module.last_norm.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, C, Z, Y, X) -> logits at full resolution, or in training with deep supervision a dict of all scales."""
        every_scale = self.deep_supervision and self.training
        outputs: list[Tensor] = self.decoder(self.encoder(x), every_scale)
        if not every_scale:
            return outputs[0]
        return {f"ds_{scale}" if scale else "output": value for scale, value in enumerate(outputs)}
