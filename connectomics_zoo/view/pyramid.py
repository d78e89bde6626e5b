"""The levels of detail of a volume: those of its store, and coarser ones that are made as they are looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.view.readers import MOST, Reader, SectionReader
from connectomics_zoo.volumes import Box, Volume
from connectomics_zoo.volumes.location import Location
from connectomics_zoo.volumes.multiscale import SMALLEST, next_step
from connectomics_zoo.volumes.opening import open_array
from connectomics_zoo.volumes.resample import Factors, downsample_image
from connectomics_zoo.volumes.uri import Uri

MOST_MADE = 64
"""Voxels that one of a made level stands for, at most: they are read when it is looked at."""

CHUNK_VOXELS = 2**18
"""Voxels of what is sent at once."""

SECTION_EDGE = 512
"""Edge of what is sent at once of volumes that are stored by section."""

_MOST_STORED = 32

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Level:
    """One level of detail."""

    reader: Reader
    """Reads the voxels that it is made of."""
    step: Factors
    """How many of them (z, y, x) make one of the level's."""
    factors: tuple[float, float, float]
    """How many of the finest level make one of the level's."""
    shape: Triple
    """Its voxels (z, y, x)."""
    chunk: Triple
    """Voxels that are sent at once."""

    def read(self, box: Box, *, is_label: bool) -> NDArray[Any]:
        """Return the voxels of a box as (C, Z, Y, X): means of images, and of labels the first one of each block.

        Raises:
            VolumeError: see `Volume.read`.
        """
        volume = self.reader.volume
        block = self.reader.read(box.scaled(self.step).intersection(volume.whole))
        if max(self.step) == 1:
            return block
        if is_label:
            z, y, x = self.step
            return block[:, ::z, ::y, ::x]
        means = np.stack([downsample_image(channel, self.step) for channel in block])
        return (np.rint(means) if block.dtype.kind in "iu" else means).astype(block.dtype)


def levels_of(volume: Volume, *, where: Location, voxel_size_nm: tuple[float, float, float]) -> tuple[Level, ...]:
    """Return the levels of a volume, the finest first.

    Args:
        volume: the finest level, open.
        where: what it was found by, which may be the image that it is a level of.
        voxel_size_nm: of the finest level (z, y, x).
    """
    by_section = where.format == "slices" or (where.format == "tiff" and volume.shape[0] > 1)
    chunk = (1, SECTION_EDGE, SECTION_EDGE) if by_section else None

    def level(source: Reader, step: Factors, finer: tuple[float, float, float]) -> Level:
        z, y, x = (-(-length // edge) for length, edge in zip(source.volume.shape, step, strict=True))
        factors = _product(finer, step)
        fitting = chunk or chunk_of((z, y, x), _product(voxel_size_nm, factors), channels=volume.channels or 1)
        return Level(source, step, factors, (z, y, x), fitting)

    found: list[tuple[Volume, tuple[float, float, float]]] = [(volume, (1.0, 1.0, 1.0))]
    found += _coarser_levels(volume, where)
    readers = [(_reader(item, where), factors) for item, factors in found]
    levels = [level(reader, (1, 1, 1), factors) for reader, factors in readers]
    reader, factors = readers[-1]
    step: Factors = (1, 1, 1)
    while max(levels[-1].shape) > SMALLEST:
        size = _product(voxel_size_nm, levels[-1].factors)
        # Sections that are files of their own are not opened by the dozen for one picture.
        further = next_step(levels[-1].shape, (math.inf, *size[1:]) if by_section else size)
        step = (step[0] * further[0], step[1] * further[1], step[2] * further[2])
        if math.prod(step) > MOST_MADE or max(further) == 1:
            break
        levels.append(level(reader, step, factors))
    return tuple(levels)


def _reader(volume: Volume, where: Location) -> Reader:
    if where.format == "slices":
        return SectionReader(volume)
    return Reader(volume, copies=MOST if isinstance(where.place, Uri) else 1)


def _coarser_levels(volume: Volume, where: Location) -> list[tuple[Volume, tuple[float, float, float]]]:
    """Return the coarser levels of a store that cover what the finest one does, and their voxels in its."""
    if where.format not in ("zarr", "n5", "precomputed") or where.level is not None:
        return []
    found: list[tuple[Volume, tuple[float, float, float]]] = []
    for number in range(1, _MOST_STORED):
        place = Location(where.place, where.dataset, where.format, str(number))
        try:
            coarser = Volume(place, array=open_array(place), voxel_size_nm=None)
        except VolumeError:  # there are no more, or none at all
            break
        factors = _factors(volume, coarser)
        if factors is not None and math.prod(factors) > math.prod(found[-1][1] if found else (1.0,)):
            found.append((coarser, factors))
    return found


def _factors(fine: Volume, coarse: Volume) -> tuple[float, float, float] | None:
    """Return how many voxels (z, y, x) of one make one of the other, None where they do not show the same."""
    if (fine.dtype, fine.channels) != (coarse.dtype, coarse.channels):
        return None
    if fine.voxel_size_nm is None or coarse.voxel_size_nm is None:
        z, y, x = (float(round(own / other)) for own, other in zip(fine.shape, coarse.shape, strict=True))
    else:
        z, y, x = (other / own for own, other in zip(fine.voxel_size_nm, coarse.voxel_size_nm, strict=True))
    found = (z, y, x)
    ends = zip(fine.shape, coarse.shape, found, strict=True)
    if min(found) < 1 or any(abs(own / factor - other) > 1 for own, other, factor in ends):
        return None
    if fine.offset_nm is not None and coarse.offset_nm is not None and coarse.voxel_size_nm is not None:
        # Some programs count from the corner of the first voxel, others from its centre.
        triples = zip(fine.offset_nm, coarse.offset_nm, coarse.voxel_size_nm, strict=True)
        if any(abs(own - other) > 0.51 * edge for own, other, edge in triples):
            return None
    return found


def chunk_of(shape: Triple, voxel_size: tuple[float, float, float], *, channels: int) -> Triple:
    """Return the edges (z, y, x) of what is sent at once: powers of two, about as long in nm along all axes.

    Args:
        shape: of the level.
        voxel_size: of the level, in any unit.
        channels: that are sent together.
    """
    edges = [1, 1, 1]
    while math.prod(edges) * 2 * channels <= CHUNK_VOXELS:
        growing = [axis for axis in range(3) if edges[axis] < shape[axis]]
        if not growing:
            break
        edges[min(growing, key=lambda axis: edges[axis] * voxel_size[axis])] *= 2
    return edges[0], edges[1], edges[2]


def _product(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float, float]:
    z, y, x = (one * other for one, other in zip(first, second, strict=True))
    return z, y, x
