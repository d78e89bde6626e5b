"""Faster inference on a CPU for networks of dense 3-D convolutions: channels last from the first layer to the last.

Three things that torch does not do by itself, for builders that declare `CHANNELS_LAST`:

- The weights lie channels last, and with them all that follows the first convolution: oneDNN's convolutions then need
  no copies to and from a layout of their own.
- Convolutions in float32 go to oneDNN. Where one sample has few channels or voxels, torch takes a kernel of its own,
  which is several times slower.
- Instance and group norm take their statistics from channels-last tensors, by short partial sums. torch's instance
  norm copies to the other layout and back, and its channels-last group norm adds up the voxels in one float32 number,
  which loses three digits at 64 x 64 x 64 voxels and more at larger sizes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo import fastpath
from connectomics_zoo.schema.builder import prefers_channels_last
from connectomics_zoo.schema.model import ModelSpec

PARTS = 64
"""Partial sums a channel."""


def prepare_inference(network: nn.Module, *, device: torch.device) -> nn.Module:
    """Return `network` as it is fastest in inference on `device`; it is changed in place.

    It changes networks on the CPU whose builder declares that this pays. Their parameters keep names and values, the
    results differ by rounding; other devices and types, derivatives, compilation and export work as before.

    Args:
        network: from `load`, in evaluation mode.
        device: where it is.
    """
    spec = cast("ModelSpec", network.spec)
    if device.type == "cpu" and spec.input.axes == "zyx" and prefers_channels_last(spec.builder):
        make_channels_last(network)
    return network


def make_channels_last(network: nn.Module) -> None:
    """Change the 3-D convolutions and the norms of `network` in place, whatever its builder declares."""
    if not fastpath.enabled() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if type(module) is nn.Conv3d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = ChannelsLastConvolution
        elif type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastGroupNorm
        elif type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm


class ChannelsLastConvolution(nn.Conv3d):
    """A convolution that goes to oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z', Y', X')."""
        if not _applies(x):
            return super().forward(x)
        x = _channels_last(x)
        # Under autocast the type that it computes in is not the input's, and bfloat16 goes to oneDNN anyway.
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        padding = cast("tuple[int, ...]", self.padding)
        return torch.mkldnn_convolution(x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group norm from short partial sums."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        if not _applies(x) or x.requires_grad:
            return super().forward(x)
        return _normalise(x, self.num_groups, self.weight, self.bias, self.eps)


class ChannelsLastInstanceNorm(nn.InstanceNorm3d):
    """Instance norm from short partial sums."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        if not _applies(x) or x.requires_grad:
            return super().forward(x)
        return _normalise(x, x.shape[1], self.weight, self.bias, self.eps)


def _applies(x: Tensor) -> bool:
    return (
        fastpath.enabled()
        and x.device.type == "cpu"
        and x.dim() == 5
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] == 1:  # either layout by its values, but torch takes it for channels last by these strides alone
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 4, 1, 2, 3)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _normalise(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x (B, C, Z, Y, X) over the voxels and channels of each group of each sample."""
    results = []
    for sample in torch.split(_channels_last(x), 1):
        mean, variance = (values.float() for values in _moments(sample, groups))
        results.append(F.batch_norm(sample, mean, variance, weight, bias, eps=eps))
    return results[0] if len(results) == 1 else torch.cat(results)


def _moments(sample: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance, float64, of each channel's group in a channels-last sample (1, C, Z, Y, X): (C,)."""
    channels = sample.shape[1]
    rows = sample.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    tail = rows.shape[0] % PARTS
    parts = [_partial_moments(rows[: len(rows) - tail], PARTS), _partial_moments(rows[len(rows) - tail :], 1)]
    means, variances, counts = (torch.cat(values) for values in zip(*parts, strict=True))
    # Partial sums, and then the channels of a group, are merged as samples of known mean and variance.
    share = counts / counts.sum() / (channels // groups)
    mean = (means * share).view(-1, groups, channels // groups).sum((0, 2))
    mean = mean.repeat_interleave(channels // groups)
    spread = (variances + (means - mean).square()) * share
    variance = spread.view(-1, groups, channels // groups).sum((0, 2)).repeat_interleave(channels // groups)
    return mean, variance


def _partial_moments(rows: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return means and variances (width, C), and counts (width, 1), of `width` interleaved parts of rows (N, C)."""
    count, channels = len(rows) // width, rows.shape[1]
    if count == 0:
        nothing = rows.new_empty(0, channels, dtype=torch.float64)
        return nothing, nothing, nothing[:, :1]
    running = rows.new_zeros(
        width * channels, dtype=torch.float32
    )  # stays so, and lets the results be float32 for bfloat16 rows
    moments = torch.batch_norm_update_stats(rows.reshape(count, width * channels), running, running, 0.0)
    means, variances = (values.view(width, channels).double() for values in moments)
    return means, variances, rows.new_full((width, 1), count, dtype=torch.float64)
