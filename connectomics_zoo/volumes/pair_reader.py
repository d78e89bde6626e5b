"""Reads boxes of an image and its labels in network voxels, from volumes on disk; without torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import DataSpec, VolumePair
from connectomics_zoo.volumes import Box, Volume, open_volume
from connectomics_zoo.volumes.box import annotated_boxes, disjoint, region_box
from connectomics_zoo.volumes.intensity import scale_intensity
from connectomics_zoo.volumes.network_grid import NetworkGrid
from connectomics_zoo.volumes.ratios import nearest_ratio, ratios_between
from connectomics_zoo.volumes.truth import Truth, join_truths, read_truth
from connectomics_zoo.volumes.voxel_size import lengths


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
        self._region: Box = region_box(pair.region, shape=self.image.shape, location=self.image.location)
        given = annotated_boxes(pair, shape=self.image.shape, location=self.image.location)
        self.regions: tuple[Box, ...] | None = None if given is None else disjoint(given)
        """The annotated boxes of the region in the volume's own voxels, of which none share any; None is all of it."""
        self._given = given
        grid = network_grid(self.image, data)
        for box in given or ():
            network_box(box, grid)
        self._use(grid)

    def _use(self, grid: NetworkGrid) -> None:
        self.grid = grid
        """Its network voxels."""
        self.whole: Box = grid.whole
        """The whole volume, in network voxels."""
        self.box: Box = network_box(self._region, grid)
        """The pair's region, in network voxels."""

    @property
    def parts(self) -> tuple[Box, ...]:
        """What is annotated at most, in network voxels: boxes that share none."""
        return disjoint([self.box] if self._given is None else map(self.grid.inside, self._given))

    def rescaled(self, scales: tuple[float, float, float]) -> PairReader | None:
        """Return a reader of the same files whose network voxels are `scales` (z, y, x) times as large.

        It says the voxel size that they should have. None if its region holds no such voxel.
        """
        z, y, x = (
            ratio if scale == 1 else nearest_ratio(float(ratio * scale))
            for ratio, scale in zip(self.grid.ratios, scales, strict=True)
        )
        grid = NetworkGrid(self.grid.shape, (z, y, x))
        if grid.inside(self._region).voxels == 0:
            return None
        other = copy.copy(self)
        other._use(grid)
        return other

    @property
    def label_locations(self) -> str:
        """Where its label volumes are, for people."""
        return ", ".join(label.location for label in self.labels.values())

    @property
    def voxel_size_nm(self) -> tuple[float, ...] | None:
        """Edge lengths (z, y, x) of a network voxel."""
        if self.data.network_voxel_size_nm is not None:
            return self.data.network_voxel_size_nm
        size = self.image.voxel_size_nm
        if size is None:
            return None
        return tuple(edge * factor for edge, factor in zip(size, self.data.downsample, strict=True))

    def read_image(self, box: Box, *, within: Box) -> NDArray[np.float32]:
        """Return the intensities (C, Z, Y, X) in `box`, reflected where it reaches out of `within`."""
        inside, padding = _clip(box, within)
        limits = self._limits(within)
        raw = self.image.read(self.grid.volume_box(inside, within=limits))
        raw = raw if raw.ndim == 4 else raw[None]
        scaled = scale_intensity(raw, dtype=self.image.dtype, intensity_range=self.data.intensity_range)
        return _reflect(self.grid.image(scaled, inside, within=limits), ((0, 0), *padding))

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
        limits = self._limits(within)
        read = partial(self._network_truth, inside=inside, limits=limits, padding=padding)
        return join_truths([read(label) for label in self.labels.values()])

    def _network_truth(self, label: Volume, *, inside: Box, limits: Box, padding: list[tuple[int, int]]) -> Truth:
        """Return the truth of one label volume in network voxels."""
        labels, annotated = self._volume_truth(label, self.grid.volume_box(inside, within=limits))
        if self.grid.ratios != (1, 1, 1):
            annotated = self.grid.mask(annotated, inside, within=limits)
            labels = self.grid.labels(labels, inside, within=limits)
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

    def _limits(self, within: Box) -> Box:
        """The volume voxels that may be read: beside a region there may be what the run is validated on."""
        return self._region if within == self.box else self.image.whole


def network_grid(image: Volume, data: DataSpec) -> NetworkGrid:
    """Return the network voxels of a volume.

    Raises:
        VolumeError: its voxel size is not known, and decides which these are, or is far from what the network sees.
    """
    if data.network_voxel_size_nm is None:
        return NetworkGrid(image.shape, data.downsample)
    if image.voxel_size_nm is None:
        raise VolumeError(
            f"{image.location}: does not say its voxel size, and it is to be resampled to "
            f"{lengths(data.network_voxel_size_nm)} nm (data.network_voxel_size_nm): add data.voxel_size_nm=[Z,Y,X]."
        )
    return NetworkGrid(
        image.shape, ratios_between(data.network_voxel_size_nm, image.voxel_size_nm, location=image.location)
    )


def network_box(region: Box, grid: NetworkGrid) -> Box:
    """Return the network voxels that lie wholly inside `region`, a box of volume voxels.

    Raises:
        VolumeError: there is none along an axis.
    """
    box = grid.inside(region)
    for axis, (first, last), length, ratio in zip("zyx", region.ranges, box.shape, grid.ratios, strict=True):
        if length > 0:
            continue
        if isinstance(ratio, int):
            raise VolumeError(
                f"region {axis}: [{first}, {last}] holds no whole block of {ratio} voxels (data.downsample), make it "
                "larger or downsample less."
            )
        raise VolumeError(
            f"region {axis}: [{first}, {last}] holds no whole network voxel, which is {float(ratio):.4g} of its voxels "
            "long (data.network_voxel_size_nm), make it larger."
        )
    return box


def _clip(box: Box, within: Box) -> tuple[Box, list[tuple[int, int]]]:
    """The part of `box` inside `within`, and how much of it lies before and behind that part."""
    inside = box.intersection(within)
    pairs = zip(box.ranges, inside.ranges, strict=True)
    return inside, [(low - first, stop - high) for (first, stop), (low, high) in pairs]


def _reflect(array: NDArray[Any], padding: Sequence[tuple[int, int]]) -> NDArray[Any]:
    return np.pad(array, padding, mode="reflect") if any(map(any, padding)) else array
