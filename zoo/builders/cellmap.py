"""Builder of CellMap's U-Nets for organelles, whose convolutions have valid padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from connectomics_zoo.schema.builder import BuilderConfig, Interface, OutputGeometry, refuse_too_many
from connectomics_zoo.schema.limits import MAX_EDGE
from zoo.builders._shared import Kernel, Stride, Width, check_length, total_stride, weights

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = True
"""Inference on a CPU is faster with channels last."""

Kernels = Annotated[tuple[Kernel, ...], Field(strict=False, min_length=1, max_length=8)]
"""The kernels (z, y, x) of convolutions that follow each other."""

_TWO: tuple[tuple[int, int, int], ...] = ((3, 3, 3), (3, 3, 3))


class Config(BuilderConfig):
    """CNNectome's U-Net (Heinrich et al., 2021): convolutions with valid padding, ReLU, max pooling, no norms.

    Features are cropped after each upsampling, so that what the network says does not change when its input is moved by
    a multiple of all strides.
    """

    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=2, max_length=6)] = (12, 72, 432, 2592)
    """Channels of each level on the way down, full resolution first."""
    up_channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=1, max_length=5)] = (72, 72, 432)
    """Channels of each level but the coarsest on the way up, full resolution first."""
    strides: Annotated[tuple[Stride, ...], Field(strict=False, min_length=1, max_length=5)] = (
        (2, 2, 2),
        (3, 3, 3),
        (3, 3, 3),
    )
    """Downsampling (z, y, x) from each level to the next."""
    kernel_sizes: Annotated[tuple[Kernels, ...], Field(strict=False, min_length=2, max_length=6)] = (_TWO,) * 4
    """Kernels of the convolutions of each level on the way down."""
    up_kernel_sizes: Annotated[tuple[Kernels, ...], Field(strict=False, min_length=1, max_length=5)] = (_TWO,) * 3
    """Kernels of the convolutions of each level but the coarsest on the way up."""
    upsampling: Literal["nearest", "nearest_conv", "transposed"] = "nearest_conv"
    """Each voxel becomes several equal ones; the same and a 1x1x1 convolution; or a transposed convolution."""
    output_stride: Stride | None = None
    """Upsampling (z, y, x) of what the U-Net gives, with a 1x1x1 convolution; None leaves both out. Where it is not 1,
    the image is first averaged over blocks of as many voxels: the U-Net itself sees voxels that much larger."""
    head_kernel_sizes: Annotated[tuple[Kernel, ...], Field(strict=False, max_length=4)] = _TWO
    """Kernels of the convolutions before the 1x1x1 one that makes the logits."""
    head_channels: Width = 72
    """Channels of these."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        levels = len(self.channels)
        check_length("up_channels", self.up_channels, levels - 1, f"a network of {levels} levels")
        check_length("strides", self.strides, levels - 1, f"a network of {levels} levels")
        check_length("kernel_sizes", self.kernel_sizes, levels, f"a network of {levels} levels")
        check_length("up_kernel_sizes", self.up_kernel_sizes, levels - 1, f"a network of {levels} levels")
        if not self.head_kernel_sizes and self.head_channels != type(self).model_fields["head_channels"].default:
            raise ValueError("head_channels has no effect without head_kernel_sizes, leave it out")
        refuse_too_many(self.approximate_parameters)
        for axis in range(3):
            self.smallest(axis)
        return self

    @property
    def approximate_parameters(self) -> int:
        """Weights of the convolutions."""
        total = 0
        for level, kernels in enumerate(self.kernel_sizes):
            total += _weights(self.channels[level - 1] if level else 1, self.channels[level], kernels)
        for level, kernels in enumerate(self.up_kernel_sizes):
            coarse = self.coarse_channels(level)
            total += weights(coarse, self.upsampled_channels(level), self.strides[level])
            total += _weights(self.channels[level] + self.upsampled_channels(level), self.up_channels[level], kernels)
        return total + _weights(self.up_channels[0], self.head_channels, self.head_kernel_sizes)

    def coarse_channels(self, level: int) -> int:
        """Return the channels of what is upsampled to `level`."""
        is_bottom = level + 1 == len(self.up_channels)
        return self.channels[-1] if is_bottom else self.up_channels[level + 1]

    def upsampled_channels(self, level: int) -> int:
        """Return the channels that it has after the upsampling."""
        return self.coarse_channels(level) if self.upsampling == "nearest" else self.up_channels[level]

    @property
    def pooling(self) -> tuple[int, ...]:
        """Image voxels (z, y, x) along an edge of a voxel that the U-Net sees."""
        return (1, 1, 1) if self.output_stride is None else self.output_stride

    def smallest(self, axis: int) -> tuple[int, int]:
        """Return the smallest edge of an image along `axis` that the network takes, and what it gives of it.

        Raises:
            ValueError: there is none, or it does not lose as much on both sides.
        """
        stride = math.prod(factors[axis] for factors in self.strides)
        lost = [sum(kernel[axis] - 1 for kernel in kernels) for kernels in self.kernel_sizes]
        # From the coarsest level, each edge there that can be, to the image: upwards until one is long enough.
        for coarsest in range(1, MAX_EDGE // stride + 1):
            edge = coarsest + lost[-1]
            for level in reversed(range(len(self.strides))):
                edge = edge * self.strides[level][axis] + lost[level]
            given = self._given(edge, axis)
            if given is not None:
                edge, given = edge * self.pooling[axis], given
                if (edge - given) % 2:
                    raise ValueError(
                        f"along {'zyx'[axis]} an image of {edge} voxels gives {given}, an odd number less, so that the "
                        "two sides differ: change strides or kernels"
                    )
                return edge, given
        raise ValueError(f"along {'zyx'[axis]} no image of at most {MAX_EDGE} voxels is large enough for these kernels")

    def _given(self, edge: int, axis: int) -> int | None:
        """Return what the network gives of `edge` voxels that the U-Net sees, None if that is too few."""
        skipped = []
        for level, kernels in enumerate(self.kernel_sizes):
            edge -= sum(kernel[axis] - 1 for kernel in kernels)
            skipped.append(edge)
            if level < len(self.strides):
                edge //= self.strides[level][axis]
        for level in reversed(range(len(self.strides))):
            lost = sum(kernel[axis] - 1 for kernel in self.up_kernel_sizes[level])
            factor = math.prod(factors[axis] for factors in self.strides[level:])
            edge = (edge * self.strides[level][axis] - lost) // factor * factor
            if edge < 1 or skipped[level] < edge + lost:
                return None
        edge = edge * self.pooling[axis] - sum(kernel[axis] - 1 for kernel in self.head_kernel_sizes)
        return edge if edge > 0 else None


def _weights(inputs: int, outputs: int, kernels: tuple[tuple[int, ...], ...]) -> int:
    return sum(weights(outputs if index else inputs, outputs, kernel) for index, kernel in enumerate(kernels))


def interface(config: Config) -> Interface:
    """An image may grow by all strides; as much of it is lost as of the smallest one."""
    sizes = [config.smallest(axis) for axis in range(3)]
    context = tuple((edge - given) // 2 for edge, given in sizes)
    return Interface(
        axes="zyx",
        minimum=tuple(edge for edge, _ in sizes),
        step=tuple(factor * more for factor, more in zip(total_stride(config.strides), config.pooling, strict=True)),
        outputs=(OutputGeometry("output", (1, 1, 1), 1.0),),
        context=context if any(context) else None,
    )


def encoder_modules(config: Config) -> tuple[str, ...]:
    """The convolutions on the way down."""
    return ("backbone.0.l_conv",)


def image_pooling(config: Config) -> tuple[int, ...]:
    """The image is averaged over blocks of so many voxels (z, y, x) before it enters the original network."""
    return config.pooling


def other_key(key: str) -> str:
    """CellMap's later networks (fly_organelles) call the same tensors so."""
    return key.replace("backbone.0.", "unet_backbone.", 1).replace("prediction_head.", "final_conv.", 1)


def untold(config: Config) -> tuple[str, ...]:
    """Pooling and the upsampling of equal voxels have no tensors; of the latter, the convolution after it has."""
    fields = () if config.upsampling == "transposed" else ("strides",)
    return fields if config.output_stride is None else (*fields, "output_stride")


def build(config: Config, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
    """Return our own network; it has one output, with and without `deep_supervision`."""
    from zoo.builders.nets.cellmap import CellMapUNet

    return CellMapUNet(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=config.channels,
        up_channels=config.up_channels,
        strides=config.strides,
        kernel_sizes=config.kernel_sizes,
        up_kernel_sizes=config.up_kernel_sizes,
        upsampling=config.upsampling,
        output_stride=config.output_stride,
        head_kernel_sizes=config.head_kernel_sizes,
        head_channels=config.head_channels,
    )
