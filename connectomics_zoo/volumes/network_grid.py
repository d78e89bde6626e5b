"""The network voxels of a volume: which there are, what they are read from, and their values from those of the volume.

Network voxel n covers the volume's interval [n * ratio, (n + 1) * ratio) along each axis, at any ratio. Along axes of
which it covers more than a voxel, images are averaged by area and labels decided by majority of area; along others,
images are interpolated between the centres of voxels and labels are those of the nearest one. It is annotated where all
that it covers is. Ratios that are whole numbers along all axes make blocks, which `resample` does faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.area import Cover, all_of, average, cover, majority
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.ratios import Ratio, Ratios, are_whole, source_range
from connectomics_zoo.volumes.resample import (
    Factors,
    downsample_image,
    downsample_labels,
    downsample_mask,
    interpolate,
)


@dataclass(frozen=True)
class NetworkGrid:
    """The network voxels of a volume; boxes are in network voxels where nothing else is said."""

    shape: tuple[int, int, int]
    """Voxels of the volume (z, y, x)."""
    ratios: Ratios
    """Volume voxels per network voxel (z, y, x)."""

    @property
    def whole(self) -> Box:
        """All network voxels; the last ones may reach out of the volume."""
        return Box.of_shape([-(-size // ratio) for size, ratio in zip(self.shape, self.ratios, strict=True)])

    def inside(self, region: Box) -> Box:
        """Return those that lie wholly inside `region`, a box of volume voxels; an empty box where there is none."""
        ranges = []
        for (first, stop), size, ratio in zip(region.ranges, self.shape, self.ratios, strict=True):
            low = -(-first // ratio)
            high = -(-stop // ratio) if stop == size else stop // ratio
            ranges.append((low, max(low, high)))
        return Box.of_ranges(ranges)

    def volume_box(self, box: Box, *, within: Box | None = None) -> Box:
        """Return the volume voxels that those in `box` are made of, and no others than those in `within`."""
        limits = Box.of_shape(self.shape) if within is None else within
        return Box.of_ranges(
            source_range(first, stop, ratio=ratio, size=high, low=low)
            for (first, stop), ratio, (low, high) in zip(box.ranges, self.ratios, limits.ranges, strict=True)
        )

    def image(self, values: NDArray[np.float32], box: Box, *, within: Box | None = None) -> NDArray[np.float32]:
        """Return the image (C, Z, Y, X) in `box` from that of the volume in `volume_box(box, within=within)`."""
        factors = self._factors
        if factors is not None:
            return values if max(factors) == 1 else np.stack([downsample_image(one, factors) for one in values])
        values = average(values, self._covers(box, within, is_coarser=True))
        axes = zip(range(3), box.ranges, self.ratios, self._sources(box, within), strict=True)
        for axis, (first, stop), ratio, (offset, low, size) in axes:
            if ratio < 1:
                values = interpolate(
                    values,
                    axis=axis + 1,
                    first=first,
                    stop=stop,
                    factor=_inverse(ratio),
                    offset=offset,
                    size=size,
                    low=low,
                )
        return values

    def labels(self, labels: NDArray[Any], box: Box, *, within: Box | None = None) -> NDArray[Any]:
        """Return the labels (Z, Y, X) in `box` from those of the volume there; numbers in 0..1 are an image."""
        factors = self._factors
        if labels.dtype.kind == "f" and factors != (1, 1, 1):
            values: NDArray[Any] = self.image(labels.astype(np.float32)[np.newaxis], box, within=within)[0]
            return values.astype(labels.dtype)
        if factors is not None:
            return downsample_labels(labels, factors)
        axes = zip(range(3), box.ranges, self.ratios, self._sources(box, within), strict=True)
        for axis, (first, stop), ratio, (offset, low, size) in axes:
            if ratio < 1:
                centres = (2 * np.arange(first, stop) + 1) * ratio.numerator // (2 * ratio.denominator)
                labels = labels.take(np.clip(centres, low, size - 1) - offset, axis=axis)
        return majority(labels, self._covers(box, within, is_coarser=True))

    def mask(self, mask: NDArray[np.bool_], box: Box, *, within: Box | None = None) -> NDArray[np.bool_]:
        """Return for those in `box` whether all that they cover is True in the mask of the volume there."""
        factors = self._factors
        if factors is not None:
            return downsample_mask(mask, factors)
        return all_of(mask, self._covers(box, within, is_coarser=False))

    @property
    def _factors(self) -> Factors | None:
        """The ratios, if all are whole numbers."""
        return self.ratios if are_whole(self.ratios) else None  # type: ignore[return-value]

    def _sources(self, box: Box, within: Box | None) -> list[tuple[int, int, int]]:
        """Return for each axis the volume voxel that is read first, and the first and one past the last there are."""
        limits = Box.of_shape(self.shape) if within is None else within
        starts = self.volume_box(box, within=within).start
        return [(start, low, high) for start, (low, high) in zip(starts, limits.ranges, strict=True)]

    def _covers(self, box: Box, within: Box | None, *, is_coarser: bool) -> list[Cover | None]:
        """Return what the network voxels cover along each axis: all that are resampled, or those that are coarser."""
        return [
            None
            if ratio == 1 or (ratio < 1 and is_coarser)
            else cover(first, stop, ratio=ratio, offset=offset, size=size, low=low)
            for (first, stop), ratio, (offset, low, size) in zip(
                box.ranges, self.ratios, self._sources(box, within), strict=True
            )
        ]


def to_volume(
    values: NDArray[np.float32], *, axis: int, first: int, stop: int, ratio: Ratio, offset: int, size: int
) -> NDArray[np.float32]:
    """Return the volume's voxels [first, stop) along `axis` from network voxels.

    Args:
        values: values at the network voxels [offset, offset + values.shape[axis]).
        axis: the axis of `values`.
        first: first voxel of the volume.
        stop: one past its last voxel.
        ratio: volume voxels per network voxel: of more than one, they are interpolated, of fewer averaged.
        offset: network voxel that `values` begins with.
        size: network voxels along the axis of the whole volume.
    """
    if ratio >= 1:
        return interpolate(values, axis=axis, first=first, stop=stop, factor=ratio, offset=offset, size=size)
    covers: list[Cover | None] = [None] * values.ndim
    covers[axis] = cover(first, stop, ratio=_inverse(ratio), offset=offset, size=size)
    return average(values, covers)


def _inverse(ratio: Ratio) -> Fraction:
    return 1 / Fraction(ratio)
