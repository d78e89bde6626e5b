"""The 2.5-D way: a 2-D network over the sections of a volume, which sees neighbouring sections as channels.

For voxels so thick that what lies above a voxel tells little of its shape, but still which of two membranes goes on.
Section z is predicted from `sections` sections, z in the middle. Nothing is made up beyond the window: its outermost
sections are seen and not predicted (valid padding along z), so that no prediction depends on the window.

Shapes: B batch, C channels, S sections that are seen, Z sections of the window, Z' = Z - S + 1 predicted ones, Y, X
space.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def neighbours_as_channels(x: Tensor, sections: int) -> Tensor:
    """(B, C, Z, Y, X) -> (B * Z', C * S, Y, X): sections with their neighbours, the lowest z of each channel first."""
    batch, channels, depth, height, width = x.shape
    given = depth - sections + 1
    seen = torch.stack([x[:, :, first : first + given] for first in range(sections)], dim=2)  # (B, C, S, Z', Y, X)
    return seen.permute(0, 3, 1, 2, 4, 5).reshape(batch * given, channels * sections, height, width)


def section_by_section(
    forward: Callable[[Tensor], Tensor | dict[str, Tensor]], x: Tensor, sections: int
) -> Tensor | dict[str, Tensor]:
    """Do `forward`, of a 2-D network, for every section of x (B, C, Z, Y, X), and return volumes (B, K, Z', Y', X')."""

    def stacked(logits: Tensor) -> Tensor:
        return logits.reshape(x.shape[0], x.shape[2] - sections + 1, *logits.shape[1:]).transpose(1, 2)

    result = forward(neighbours_as_channels(x, sections))
    return {name: stacked(value) for name, value in result.items()} if isinstance(result, dict) else stacked(result)
