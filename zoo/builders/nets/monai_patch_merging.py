"""SwinUNETR's patch merging in each order that MONAI has had under the same keys.

Shapes: B batch, C channels, Z, Y, X space.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch import Tensor

Merging = Literal["merging", "mergingv2", "merging-before-1.5"]

ORDERS: dict[Merging, tuple[tuple[int, int, int], ...]] = {
    "merging": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    "mergingv2": tuple(product((0, 1), (0, 1), (0, 1))),
    # Two neighbours stand twice and two are left out: a slip, mended in 1.5 (Project-MONAI/MONAI, issue 5106).
    "merging-before-1.5": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
}
"""Which voxel (z, y, x) of a patch of 2 x 2 x 2 comes when."""


class _PatchMerging(PatchMergingV2):
    """Eight neighbouring tokens become one of twice the channels."""

    order: tuple[tuple[int, int, int], ...]

    def forward(self, x: Tensor) -> Tensor:
        """(B, Z, Y, X, C) of even sizes, as the legal input sizes make them -> (B, Z/2, Y/2, X/2, 2 * C)."""
        parts = [x[:, z::2, y::2, x_::2, :] for z, y, x_ in self.order]
        result: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return result


def patch_merging(merging: Merging) -> type[PatchMergingV2]:
    """Return the layer for MONAI's argument `downsample`."""
    return type("PatchMerging", (_PatchMerging,), {"order": ORDERS[merging]})
