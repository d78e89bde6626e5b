"""The window grid: where windows lie along each axis, and with which weights they are blended.

The grid follows from the size of the whole volume, the window and the overlap alone. Blocks, regions and batches
choose from it and never shift it, so they cannot change a prediction (a network that normalises per window, such
as MedNeXt, would otherwise answer differently).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SIGMA = 1 / 8
"""Width of the blending Gaussian in windows, as in nnU-Net and MONAI."""


@dataclass(frozen=True)
class AxisGrid:
    """The windows along one axis, in network voxels."""

    size: int
    """Voxels of the volume along the axis."""
    window: int
    """Voxels of a window; where `size` is smaller, the one window reaches beyond the end of the volume."""
    overlap: float
    """Fraction of a window that it shares with the next one, at least."""

    @cached_property
    def step(self) -> int:
        """Voxels from one window to the next; only the last one may be nearer to its neighbour."""
        return max(1, int(self.window * (1 - self.overlap) + 1e-9))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First voxel of each window; the last window ends where the volume ends."""
        last = self.size - self.window
        if last <= 0:
            return (0,)
        return (*range(0, last, self.step), last)

    @cached_property
    def _profile(self) -> NDArray[np.float64]:
        distance = (np.arange(self.window) - (self.window - 1) / 2) / (SIGMA * self.window)
        profile: NDArray[np.float64] = np.exp(-0.5 * distance**2)
        return profile

    @cached_property
    def _total(self) -> NDArray[np.float64]:
        total = np.zeros(self.size)
        for start in self.starts:
            first, stop = self.inside(start)
            total[first:stop] += self._profile[first - start : stop - start]
        return total

    def inside(self, start: int) -> tuple[int, int]:
        """Return the part [first, stop) of the window at `start` that lies in the volume."""
        return start, min(self.size, start + self.window)

    def weights(self, start: int, *, first: int, stop: int) -> NDArray[np.float32]:
        """Return the share of the window at `start` in the voxels [first, stop); all windows' shares add up to 1.

        The grid is a product of its axes, and so are weights and their sums: the product of the shares along z, y
        and x is the share in three dimensions.
        """
        share = self._profile[first - start : stop - start] / self._total[first:stop]
        return share.astype(np.float32)

    def touching(self, first: int, stop: int) -> tuple[int, ...]:
        """Return the starts of the windows that contain a voxel of [first, stop)."""
        return tuple(start for start in self.starts if start < stop and start + self.window > first)
