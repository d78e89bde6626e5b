"""Faster inference on a CPU for networks of dense 3-D convolutions: channels last from the first to the last layer.

Three things that torch does not do by itself, for builders that declare `CHANNELS_LAST`:

- The weights lie channels last, so that all that follows the first convolution does, too: oneDNN's convolutions then
  need no copies to and from a layout of their own.
- Convolutions in float32 go to oneDNN. torch takes a kernel of its own for one sample of few channels or voxels, which
  is several times slower.
- Instance and group norm compute their statistics from channels-last tensors with short partial sums. torch's instance
  norm copies to and from the other layout, and its channels-last group norm adds up all voxels in one float32 number,
  which costs three digits or more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectomics_zoo import fastpath
from connectomics_zoo.schema.builder import prefers_channels_last
from connectomics_zoo.schema.model import ModelSpec

PARTS = 64
"""Partial sums a channel."""


def prepare_inference(network: nn.Module, *, device: torch.device) -> nn.Module:
    """Return `network` as it is fastest for inference on `device`; it is changed in place.

    Only on the CPU, and only if its builder declares that this pays. Names, values and number of the parameters stay;
    the results differ by rounding. What the changed layers cannot do faster (autograd apart), such as other devices,
    other types, compilation and export, goes the usual way.

    Args:
        network: from `load`, in evaluation mode.
        device: where it is and will run.
    """
    spec: ModelSpec = network.spec  # type: ignore[assignment]
    if device.type == "cpu" and fastpath.enabled() and torch.backends.mkldnn.is_available() and spec.input.axes == "zyx" and prefers_channels_last(spec.builder):
        make_channels_last(network)
    return network


def make_channels_last(network: nn.Module) -> None:
    """Change the convolutions and norms of `network` in place, whatever its builder declares."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if type(module) is nn.Conv3d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = Convolution
        elif type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
        elif type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = InstanceNorm


class Convolution(nn.Conv3d):
    """A convolution that goes to oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, K, Z', Y', X')."""
        if not _applies(x):
            return super().forward(x)
        x = _channels_last(x)
        # Below autocast the input's type is not yet the one it computes in.
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return torch.mkldnn_convolution(x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)


class GroupNorm(nn.GroupNorm):
    """Group norm of channels-last tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        if not _applies(x) :
            return super().forward(x)
        return _normalise(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm of channels-last tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        if not _applies(x):
            return super().forward(x)
        return _normalise(x, x.shape[1], self.weight, self.bias, self.eps)


def _applies(x: Tensor) -> bool:
    return (
        fastpath.enabled()
        and x.device.type == "cpu"
        and x.dim() == 5
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] == 1:  # both layouts at once, and only with these strides taken for channels last
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 4, 1, 2, 3)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _normalise(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise x (B, C, Z, Y, X), channels last, over each sample's groups of channels."""
    samples = []
    for sample in _channels_last(x).split(1):
        mean, variance = _moments(sample)
        of_groups = mean.view(groups, -1).mean(1, keepdim=True)
        spread = variance.view(groups, -1) + (mean.view(groups, -1) - of_groups) ** 2
        per_channel = [v.expand(groups, x.shape[1] // groups).reshape(-1).float() for v in (of_groups, spread.mean(1, keepdim=True))]
        samples.append(F.batch_norm(sample, *per_channel, weight, bias, eps=eps))
    return samples[0] if len(samples) == 1 else torch.cat(samples)


def _moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (C,), in float64, of a sample (1, C, Z, Y, X), channels last."""
    channels = sample.shape[1]
    rows = sample.permute(0, 2, 3, 4, 1).reshape(-1, channels)
    many = rows.shape[0] - rows.shape[0] % PARTS
    means, variances, counts = [], [], []
    for part, width in ((rows[:many], PARTS), (rows[many:], 1)):
        if len(part):
            running = torch.zeros(width * channels)  # never changed; it makes the results float32
            mean, variance = torch.batch_norm_update_stats(part.reshape(-1, width * channels), running, running, 0.0)
            means.append(mean.view(width, channels).double())
            variances.append(variance.view(width, channels).double())
            counts += [len(part) / width / len(rows)] * width
    share = torch.tensor(counts, dtype=torch.float64)[:, None]
    mean = (torch.cat(means) * share).sum(0)
    return mean, ((torch.cat(variances) + (torch.cat(means) - mean) ** 2) * share).sum(0)
