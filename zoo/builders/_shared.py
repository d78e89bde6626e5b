"""What the builders share: field types, MONAI's spelling of norms, and the rule of legal sizes (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from connectomics_zoo.schema.builder import Interface, OutputGeometry


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even, a kernel needs a centre: give an odd number")
    return value


Width = Annotated[int, Field(ge=1, le=8192)]
"""A number of channels."""

Edge = Annotated[int, Field(ge=1, le=15, json_schema_extra={"not": {"multipleOf": 2}}), AfterValidator(_odd)]
"""Edge of a convolution's kernel."""

Kernel = Annotated[tuple[Edge, ...], Field(strict=False, min_length=3, max_length=3)]
"""A kernel (z, y, x)."""

Stride = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(strict=False, min_length=3, max_length=3)]
"""A downsampling factor (z, y, x)."""

Probability = Annotated[float, Field(ge=0, le=0.95)]
"""Probability that dropout zeroes an element."""

Norm = Literal["batch", "instance", "group"]
"""Normalisation: over the batch, over each sample's channel (without learned scale), or over groups of channels."""

Activation = Literal["relu", "leakyrelu", "prelu", "elu", "gelu", "swish", "mish"]
"""Activation, as MONAI spells it, with its default parameters."""

Groups = Annotated[int, Field(ge=1, le=1024)]
"""Number of groups of norm `group`; it must divide the channels."""

Upsampling = Literal["deconv", "nontrainable", "pixelshuffle"]
"""Transposed convolution, linear interpolation, or pixel shuffle."""


def monai_norm(norm: Norm, num_groups: int) -> str | tuple[str, dict[str, Any]]:
    """Return `norm` as MONAI takes it."""
    return ("group", {"num_groups": num_groups}) if norm == "group" else norm


def check_groups(norm: Norm, num_groups: int, channels: Sequence[int]) -> None:
    """Refuse channels that norm `group` cannot divide."""
    wrong = [width for width in channels if width % num_groups]
    if norm == "group" and wrong:
        raise ValueError(f"norm 'group' cannot divide {wrong[0]} channels into {num_groups} groups, change either")


def check_length(field: str, values: Sequence[object], length: int, reason: str) -> None:
    """Refuse a list that does not fit the number of levels."""
    if len(values) != length:
        raise ValueError(f"{field} has {len(values)} entries and {reason} needs {length}, give as many")


def at_bottleneck(channels: Sequence[int], strides: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the channels of the levels at the coarsest resolution: more than one where the last strides are 1."""
    count = 1
    for stride in reversed(strides):
        if math.prod(stride) > 1:
            break
        count += 1
    return channels[-count:]


def needs_two_voxels(norm: str, num_groups: int, channels: Sequence[int]) -> bool:
    """Whether a norm is undefined where levels of so many channels are a single voxel: one value a statistic."""
    return norm in ("batch", "instance") or (norm == "group" and num_groups in channels)


def untold_norm(norm: str) -> tuple[str, ...]:
    """Return which of `norm` and `num_groups` no tensor tells.

    Running statistics tell batch norm. A scale and a bias are those of groups or of each channel, and without any
    tensor it may be instance norm or none.
    """
    return {"batch": (), "group": ("norm", "num_groups")}.get(norm, ("norm",))


def untold_activation(activation: str) -> tuple[str, ...]:
    """Return `activation` unless it is PReLU, the only one with a tensor."""
    return () if activation == "prelu" else ("activation",)


def largest_divisor(channels: int, at_most: int) -> int:
    """Return the largest number, `at_most` or less, that divides `channels`."""
    return max(number for number in range(1, min(at_most, channels) + 1) if channels % number == 0)


def weights(inputs: int, outputs: int, kernel: Sequence[int] = (3, 3, 3)) -> int:
    """Return the number of weights of a convolution."""
    return inputs * outputs * math.prod(kernel)


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the product of `strides` along each axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True)) if strides else (1, 1, 1)


def volume_interface(
    strides: Sequence[Sequence[int]], *, two_voxels: bool, supervised: Sequence[int] = ()
) -> Interface:
    """Return the interface of a U-shaped network whose input must divide evenly at every level.

    Args:
        strides: the factor (z, y, x), or (y, x) in 2-D, from each level to the next.
        two_voxels: the bottleneck needs more than one voxel; the last axis gives the second.
        supervised: the levels that have deep-supervision outputs, from fine to coarse.
    """
    step = total_stride(strides)
    minimum = (*step[:-1], step[-1] * 2) if two_voxels else step
    outputs = [OutputGeometry("output", (1,) * len(step), 1.0)]
    outputs += [
        OutputGeometry(f"ds_{index}", total_stride(strides[:level]), 0.5**index)
        for index, level in enumerate(supervised, start=1)
    ]
    return Interface(axes="zyx"[-len(step) :], minimum=minimum, step=step, outputs=tuple(outputs))


def nested_encoder(levels: int) -> tuple[str, ...]:
    """Return the encoder's submodules where each level holds the coarser ones between its own way down and up.

    Args:
        levels: levels of the network, the bottleneck included.
    """
    inner = ["model" + ".1.submodule" * level for level in range(levels)]
    return (*(f"{name}.0" for name in inner[:-1]), inner[-1])
