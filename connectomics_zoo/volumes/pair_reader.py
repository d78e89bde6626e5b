"""Reads boxes of an image and its labels in network voxels, from volumes on disk; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import DataSpec, Region, VolumePair
from connectomics_zoo.volumes import Box, Volume, open_volume
from connectomics_zoo.volumes.box import annotated_boxes, as_region, disjoint
from connectomics_zoo.volumes.intensity import scale_intensity
from connectomics_zoo.volumes.resample import downsample_image, downsample_labels, downsample_mask
from connectomics_zoo.volumes.truth import Truth, join_truths, read_truth


class PairReader:
    """Reads patches of one image and its labels in network voxels; opens its files when it is first used."""

    def __init__(self, pair: VolumePair, data: DataSpec) -> None:
        self.pair = pair
        self.data = data
        self.image: Volume = open_volume(pair.image, root=data.folder, voxel_size_nm=data.voxel_size_nm)
        self.labels: dict[str | None, Volume] = {
            name: open_volume(place, root=data.folder, voxel_size_nm=data.voxel_size_nm)
            for name, place in pair.label_places.items()
        }
        """The label volumes by name, None for one alone."""
        self.mask: Volume | None = None
        if pair.mask is not None:
            self.mask = open_volume(pair.mask, root=data.folder, voxel_size_nm=data.voxel_size_nm)
        factors = data.downsample
        self.whole: Box = network_box(Region(), self.image.shape, factors)
        """The whole volume, in network voxels."""
        self.box: Box = network_box(pair.region, self.image.shape, factors)
        """The pair's region, in network voxels."""
        given = annotated_boxes(pair, shape=self.image.shape, location=self.image.location)
        self.regions: tuple[Box, ...] | None = None if given is None else disjoint(given)
        """The annotated boxes of the region in the volume's own voxels, of which none share any; None is all of it."""
        self.parts: tuple[Box, ...] = (
            (self.box,)
            if given is None
            else disjoint(network_box(as_region(box), self.image.shape, factors) for box in given)
        )
        """What is annotated at most, in network voxels: boxes that share none."""

    @property
    def label_locations(self) -> str:
        """Where its label volumes are, for people."""
        return ", ".join(label.location for label in self.labels.values())

    @property
    def voxel_size_nm(self) -> tuple[float, ...] | None:
        """Edge lengths (z, y, x) of a network voxel."""
        size = self.image.voxel_size_nm
        if size is None:
            return None
        return tuple(edge * factor for edge, factor in zip(size, self.data.downsample, strict=True))

    def read_image(self, box: Box, *, within: Box) -> NDArray[np.float32]:
        """Return the intensities (C, Z, Y, X) in `box`, reflected where it reaches out of `within`."""
        inside, padding = _clip(box, within)
        raw = self.image.read(self._volume_box(inside))
        raw = raw if raw.ndim == 4 else raw[None]
        scaled = scale_intensity(raw, dtype=self.image.dtype, intensity_range=self.data.intensity_range)
        if max(self.data.downsample) > 1:
            scaled = np.stack([downsample_image(channel, self.data.downsample) for channel in scaled])
        return _reflect(scaled, ((0, 0), *padding))

    def read_label(self, box: Box, *, within: Box) -> NDArray[Any]:
        """Return the labels (Z, Y, X) in `box`, reflected where it reaches out of `within`; 0 where not annotated.

        Of several label volumes, the largest label.
        """
        return self.read_truth(box, within=within).largest

    def read_truth(self, box: Box, *, within: Box) -> Truth:
        """Return the labels in `box`, reflected where it reaches out of `within`, and where they are annotated.

        A network voxel is annotated where all of its volume voxels are.
        """
        inside, padding = _clip(box, within)
        return join_truths([self._network_truth(label, inside, padding) for label in self.labels.values()])

    def _network_truth(self, label: Volume, inside: Box, padding: list[tuple[int, int]]) -> Truth:
        """Return the truth of one label volume in network voxels."""
        labels, annotated = self._volume_truth(label, self._volume_box(inside))
        if max(self.data.downsample) > 1:
            annotated = downsample_mask(annotated, self.data.downsample)
            labels = downsample_labels(labels, self.data.downsample)
            labels = np.where(annotated, labels, np.zeros((), labels.dtype))
        return Truth(_reflect(labels, padding), _reflect(annotated, padding))

    def read_volume_truth(self, box: Box) -> Truth:
        """Return the labels of `box` in the volume's own voxels, and where they are annotated."""
        return join_truths([self._volume_truth(label, box) for label in self.labels.values()])

    def _volume_truth(self, label: Volume, box: Box) -> Truth:
        return read_truth(
            label,
            self.mask,
            box,
            unlabelled=self.data.unlabelled,
            background=self.data.background,
            regions=self.regions,
        )

    def close(self) -> None:
        """Close the files."""
        for volume in (self.image, *self.labels.values(), self.mask):
            if volume is not None:
                volume.close()

    def _volume_box(self, box: Box) -> Box:
        return box.scaled(self.data.downsample).intersection(self.image.whole)


def network_box(region: Region, shape: tuple[int, ...], factors: tuple[int, ...]) -> Box:
    """Return the network voxels that lie wholly inside `region` of a volume of `shape`.

    Raises:
        VolumeError: there is none along an axis.
    """
    ranges = []
    for axis, limits, length, factor in zip("zyx", (region.z, region.y, region.x), shape, factors, strict=True):
        first, last = limits or (0, length)
        low = -(-first // factor)
        high = -(-last // factor) if last == length else last // factor
        if low >= high:
            raise VolumeError(
                f"region {axis}: [{first}, {last}] holds no whole block of {factor} voxels (data.downsample), "
                "make it larger or downsample less."
            )
        ranges.append((low, high))
    return Box.of_ranges(ranges)


def _clip(box: Box, within: Box) -> tuple[Box, list[tuple[int, int]]]:
    """The part of `box` inside `within`, and how much of it lies before and behind that part."""
    inside = box.intersection(within)
    pairs = zip(box.ranges, inside.ranges, strict=True)
    return inside, [(low - first, stop - high) for (first, stop), (low, high) in pairs]


def _reflect(array: NDArray[Any], padding: Sequence[tuple[int, int]]) -> NDArray[Any]:
    return np.pad(array, padding, mode="reflect") if any(map(any, padding)) else array
