"""Patches at another scale: network voxels that are larger or smaller than they should be, read as such.

A patch that shrinks what it shows is read from a larger part of the volume, and one that enlarges it from a smaller
one, by the one resampling that makes network voxels anyway: nothing is filled with reflections, and no grey value is
averaged twice.
"""

from __future__ import annotations

import math

import numpy as np

from connectomics_zoo.schema.augmentation import AugmentationSpec
from connectomics_zoo.train.augment.chance import happens
from connectomics_zoo.train.augment.symmetry import is_isotropic
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader


def rescaled_patch(
    reader: PairReader, box: Box, *, spec: AugmentationSpec, generator: np.random.Generator
) -> tuple[PairReader, Box] | None:
    """Return the reader and the box of a patch about the same place at a random scale, None where it keeps its own.

    The factor is log-uniform, so that twice as large is as likely as half. It is the same along all axes where voxels
    are isotropic, and within the section otherwise. A patch is read from no more than its region has.

    Args:
        reader: the volume.
        box: the patch in its network voxels.
        spec: how often, and how much.
        generator: source of randomness.
    """
    if not happens(spec.rescale, generator):
        return None
    low, high = spec.scale_range
    length = math.exp(-generator.uniform(math.log(low), math.log(high)))  # of a network voxel, in those of the reader
    axes = (0, 1, 2) if is_isotropic(reader.voxel_size_nm) else (1, 2)
    room = min(reader.box.shape[axis] / box.shape[axis] for axis in axes)
    length = min(length, max(1.0, room))
    z, y, x = (length if axis in axes else 1.0 for axis in range(3))
    other = reader.rescaled((z, y, x))
    return None if other is None else (other, _moved(box, reader, other))


def _moved(box: Box, reader: PairReader, other: PairReader) -> Box:
    """Return the box of the same shape in the network voxels of `other` whose centre is at the same place."""
    starts = []
    for axis, ((first, stop), (low, high)) in enumerate(zip(box.ranges, other.box.ranges, strict=True)):
        ratio = reader.grid.ratios[axis] / other.grid.ratios[axis]
        start = round(float((first + stop) * ratio - (stop - first)) / 2)
        starts.append(min(max(start, low), max(high - (stop - first), low)))
    return Box.of_shape(box.shape, start=starts)
