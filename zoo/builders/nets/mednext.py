"""MedNeXt in plain PyTorch: the short, readable specification of the network.

Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.09975. Names, shapes and arithmetic are those of the original implementation
(https://github.com/MIC-DKFZ/MedNeXt, commit 0b78ed8), so that its checkpoints load without a map.

Shapes: B batch, C channels at this resolution, R expansion ratio, Z, Y, X space (Y, X in 2-D).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.builders.nets import mednext_fast
from zoo.builders.nets.sections import section_by_section

LEVELS = 4
"""Number of halvings; level 0 is full resolution, level 4 the bottleneck."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> the same shape."""
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class Block(nn.Module):
    """Depthwise convolution, norm, expansion, GELU, compression: a ConvNeXt block in 2-D or 3-D.

    `resample` makes it the down- or upsampling block, which changes the depthwise convolution's stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion_ratio: int,
        kernel_size: int,
        norm: Literal["group", "layer"],
        spatial_dims: Literal[2, 3],
        grn: bool,
        residual: bool,
        resample: Literal["none", "down", "up"] = "none",
    ) -> None:
        super().__init__()
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        transposed = nn.ConvTranspose3d if spatial_dims == 3 else nn.ConvTranspose2d
        stride_conv = transposed if resample == "up" else conv
        stride = 1 if resample == "none" else 2
        hidden = expansion_ratio * in_channels

        # Registered in the original's order, which is the order of the state dict's keys.
        if grn:
            self.grn_beta = nn.Parameter(torch.zeros(1, hidden, *[1] * spatial_dims))
            self.grn_gamma = nn.Parameter(torch.zeros(1, hidden, *[1] * spatial_dims))
        self.conv1 = stride_conv(
            in_channels, in_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=in_channels
        )
        self.norm = nn.GroupNorm(in_channels, in_channels) if norm == "group" else ChannelNorm(in_channels)
        self.conv2 = conv(in_channels, hidden, 1)
        self.conv3 = conv(hidden, out_channels, 1)
        if residual and resample != "none":
            self.res_conv = stride_conv(in_channels, out_channels, 1, stride=2)

        self.grn = grn
        self.residual = residual
        self.resample = resample
        self.spatial_axes = tuple(range(-spatial_dims, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, out_channels, Z', Y', X') with Z' = Z, Z/2 or 2Z."""
        hidden = F.gelu(self.conv2(self.norm(self.conv1(x))))  # (B, R*C, Z', Y', X')
        if self.grn:
            norms = torch.linalg.vector_norm(hidden, dim=self.spatial_axes, keepdim=True)  # (B, R*C, 1, 1, 1)
            relative = norms / (norms.mean(dim=1, keepdim=True) + 1e-6)
            hidden = self.grn_gamma * (hidden * relative) + self.grn_beta + hidden
        out: Tensor = self.conv3(hidden)
        if self.residual:
            out = out + (x if self.resample == "none" else self.res_conv(x))
        if self.resample == "up":  # 2n - 1 voxels to 2n: one plane of zeros in front of each axis
            out = F.pad(out, (1, 0) * len(self.spatial_axes))
        return out


class Head(nn.Module):
    """The 1x1x1 (transposed, as in the original) convolution from features to logits."""

    def __init__(self, in_channels: int, out_channels: int, *, spatial_dims: Literal[2, 3]) -> None:
        super().__init__()
        transposed = nn.ConvTranspose3d if spatial_dims == 3 else nn.ConvTranspose2d
        self.conv_out = transposed(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, out_channels, Z, Y, X)."""
        logits: Tensor = self.conv_out(x)
        return logits


class MedNeXt(nn.Module):
    """The U-shaped network of nine stages: four encoder stages, the bottleneck, four decoder stages.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every output.
        base_channels: channels at full resolution, doubled by each downsampling.
        encoder_kernel_size: edge of the encoder's depthwise kernels, odd.
        decoder_kernel_size: edge of the kernels in bottleneck and decoder, odd.
        expansion_ratios: hidden channels per channel, one for each stage.
        down_expansion_ratios: the same of the four downsampling blocks; an upsampling block has its stage's.
        block_counts: blocks in each stage.
        residual: residual connections in the blocks.
        resample_residual: residual connections in the down- and upsampling blocks.
        norm: `group` (one group a channel) or `layer`.
        spatial_dims: 2 or 3.
        sections: neighbouring sections that a 2-D network sees as channels; with more than one it takes volumes, and
            says nothing of their first and last `sections // 2`.
        grn: global response normalisation.
        checkpointing: recompute the blocks in the backward pass.
        deep_supervision: have heads at all five resolutions, and return them all in training.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base_channels: int,
        encoder_kernel_size: int,
        decoder_kernel_size: int,
        expansion_ratios: tuple[int, ...],
        down_expansion_ratios: tuple[int, ...],
        block_counts: tuple[int, ...],
        residual: bool,
        resample_residual: bool,
        norm: Literal["group", "layer"],
        spatial_dims: Literal[2, 3],
        sections: int,
        grn: bool,
        checkpointing: bool,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.deep_supervision = deep_supervision
        self.sections = sections
        channels = [base_channels * 2**level for level in range(LEVELS + 1)]

        def stage(index: int, level: int, kernel_size: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    Block(
                        channels[level],
                        channels[level],
                        expansion_ratio=expansion_ratios[index],
                        kernel_size=kernel_size,
                        norm=norm,
                        spatial_dims=spatial_dims,
                        grn=grn,
                        residual=residual,
                    )
                    for _ in range(block_counts[index])
                )
            )

        def resampling(ratio: int, source: int, target: int, kernel_size: int) -> Block:
            return Block(
                channels[source],
                channels[target],
                expansion_ratio=ratio,
                kernel_size=kernel_size,
                norm=norm,
                spatial_dims=spatial_dims,
                grn=grn and (source, target) != (0, 1),  # the original's first downsampling has none
                residual=resample_residual,
                resample="down" if target > source else "up",
            )

        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        # The original's work-around for checkpointing: inert, but its checkpoints have the key.
        self.dummy_tensor = nn.Parameter(torch.ones(1), requires_grad=False)
        self.stem = conv(in_channels * sections, channels[0], 1)
        for level in range(LEVELS):
            self.add_module(f"enc_block_{level}", stage(level, level, encoder_kernel_size))
            self.add_module(
                f"down_{level}", resampling(down_expansion_ratios[level], level, level + 1, encoder_kernel_size)
            )
        self.bottleneck = stage(LEVELS, LEVELS, decoder_kernel_size)
        for level in reversed(range(LEVELS)):
            index = 2 * LEVELS - level
            self.add_module(f"up_{level}", resampling(expansion_ratios[index], level + 1, level, decoder_kernel_size))
            self.add_module(f"dec_block_{level}", stage(index, level, decoder_kernel_size))
        for level in range(LEVELS + 1 if deep_supervision else 1):
            self.add_module(f"out_{level}", Head(channels[level], out_channels, spatial_dims=spatial_dims))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """(B, in_channels, Z, Y, X) -> logits (B, out_channels, Z, Y, X), by `mednext_fast` where that applies.

        In training with deep supervision: `{"output": …, "ds_1": …, … "ds_4": …}`, each half as large as the
        one before it.
        """
        if self.obstacle(x) is None:
            return mednext_fast.forward(self, x, supervise=self.deep_supervision and self.training)
        return self._forward(x) if self.sections == 1 else section_by_section(self._forward, x, self.sections)

    def _forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """As `forward`, in plain PyTorch; of a 2-D network (B, C, Y, X)."""
        supervise = self.deep_supervision and self.training
        features = {}  # by level, of the encoder and then of the decoder
        x = self.stem(x)
        for level in range(LEVELS):
            features[level] = self._run(f"enc_block_{level}", x)
            x = self._run(f"down_{level}", features[level])
        x = features[LEVELS] = self._run("bottleneck", x)
        for level in reversed(range(LEVELS)):
            x = features[level] + self._run(f"up_{level}", x)
            x = features[level] = self._run(f"dec_block_{level}", x)
        output: Tensor = self.get_submodule("out_0")(x)
        if not supervise:
            return output
        outputs = {"output": output}
        for level in range(1, LEVELS + 1):
            outputs[f"ds_{level}"] = self.get_submodule(f"out_{level}")(features[level])
        return outputs

    def obstacle(self, x: Tensor) -> str | None:
        """Return why x (B, C, Z, Y, X) is computed by the code below and not by its fast equal on the CPU, or None."""
        return mednext_fast.obstacle(self, x, blocks=(Block, Head))

    def _run(self, name: str, x: Tensor) -> Tensor:
        """Run the stage or resampling block `name`, recomputing each block if asked to."""
        module = self.get_submodule(name)
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            result: Tensor = module(x)
            return result
        for block in module if isinstance(module, nn.Sequential) else [module]:
            x = checkpoint(block, x, use_reentrant=False)
        return x
