"""Coarser levels of a Zarr image, each made of the one before it, a shard at a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.prediction import StoredPrediction, to_attributes
from connectomics_zoo.volumes.resample import Factors, downsample_image, downsample_labels
from connectomics_zoo.volumes.uri import Place
from connectomics_zoo.volumes.zarr_writing import ArrayLayout, ArrayWriter, add_level, finish_array

SMALLEST = 256
"""Edge in voxels that is a screen's worth: an image none of whose edges is longer has no coarser level."""

SHARD_VOXELS = 2**25
"""Voxels of a shard of a coarser level, at most."""

_Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Levels:
    """The levels of an image; it can be pickled.

    Probabilities become means over the voxels that are there, rounded to the nearest whole number where the data type
    has no others (halves to the even one). Labels become the most frequent one, of equally frequent ones the smallest.
    """

    place: Place
    """The store."""
    dataset: str | None
    """The group that is the image, None for the store itself."""
    layouts: tuple[ArrayLayout, ...]
    """All levels, the finest first."""
    is_label: bool
    """Whether the values are labels."""

    def create(self, number: int) -> None:
        """Create the array of a coarser level, unless it is there.

        Raises:
            OutputError: it cannot be written.
        """
        add_level(self.place, number, dataset=self.dataset, layout=self.layouts[number])

    def make(self, number: int, box: Box) -> None:
        """Make a shard of a coarser level of the level before it; in memory are one channel of it and eight chunks.

        Args:
            number: the level, from 1.
            box: the shard, in voxels of the level.

        Raises:
            OutputError: it cannot be written, or the level before it cannot be read.
        """
        before, layout = self.layouts[number - 1], self.layouts[number]
        z, y, x = (own // finer for own, finer in zip(layout.factors, before.factors, strict=True))
        source = ArrayWriter(self.place, dataset=self.dataset, level=number - 1)
        target = ArrayWriter(self.place, dataset=self.dataset, level=number)
        all_of_source = Box.of_shape(_spatial(before.shape))
        channels = [(slice(channel, channel + 1),) for channel in range(layout.shape[0])]
        for channel in channels if len(layout.shape) == 4 else [()]:
            shard = np.empty(box.shape, layout.dtype)
            for piece in pieces(box, _spatial(layout.chunks)):
                fine = piece.scaled((z, y, x)).intersection(all_of_source)
                values = source.read((*channel, *fine.slices))
                values = values[0] if channel else values
                shard[piece.relative_to(box.start).slices] = self._downsampled(values, (z, y, x))
            target.write((*channel, *box.slices), shard[np.newaxis] if channel else shard)

    def finish(self) -> None:
        """Let the image count as a volume of these levels.

        Raises:
            OutputError: it cannot be written.
        """
        finish_array(self.place, dataset=self.dataset, levels=self.layouts)

    def make_all(self) -> None:
        """Make all coarser levels, and finish.

        Raises:
            OutputError: they cannot be written.
        """
        for number in range(1, len(self.layouts)):
            self.create(number)
            shape, shards = self.shape_of(number)
            for box in pieces(Box.of_shape(shape), shards):
                self.make(number, box)
        self.finish()

    def shape_of(self, number: int) -> tuple[_Triple, _Triple]:
        """Return shape and shards (z, y, x) of a level, in voxels of its own."""
        layout = self.layouts[number]
        return _spatial(layout.shape), _spatial(layout.shards)

    def _downsampled(self, values: NDArray[Any], step: Factors) -> NDArray[Any]:
        if self.is_label or values.dtype == bool:
            return downsample_labels(values, step)
        mean = downsample_image(values, step)
        return (np.rint(mean) if values.dtype.kind in "iu" else mean).astype(values.dtype)


def levels_of(
    place: Place, *, dataset: str | None, layout: ArrayLayout, stored: StoredPrediction, multiscale: bool
) -> Levels:
    """Return the levels of an image.

    Args:
        place: the store.
        dataset: the group that is the image, None for the store itself.
        layout: the finest level.
        stored: what it says of itself.
        multiscale: whether there are coarser ones.
    """
    layouts = [layout]
    # Where it lies in another volume is counted in voxels of the finest level.
    attributes = to_attributes(dataclasses.replace(stored, placement=None))
    while multiscale and max(_spatial(layouts[-1].shape)) > SMALLEST:
        layouts.append(_coarser(layouts[-1], attributes))
    return Levels(place, dataset, tuple(layouts), is_label=stored.content in ("label", "instances"))


def _coarser(layout: ArrayLayout, attributes: dict[str, Any]) -> ArrayLayout:
    shape, chunks = _spatial(layout.shape), _spatial(layout.chunks)
    size = [edge * factor for edge, factor in zip(layout.voxel_size_nm or (1, 1, 1), layout.factors, strict=True)]
    step = next_step(shape, (size[0], size[1], size[2]))
    coarse = [-(-length // factor) for length, factor in zip(shape, step, strict=True)]
    chunks = _triple(min(edge, length) for edge, length in zip(chunks, coarse, strict=True))
    counts = [
        min(max(1, shard // chunk), -(-length // chunk))
        for shard, chunk, length in zip(_spatial(layout.shards), chunks, coarse, strict=True)
    ]
    while math.prod(counts) * math.prod(chunks) > SHARD_VOXELS and max(counts) > 1:
        axis = counts.index(max(counts))
        counts[axis] = -(-counts[axis] // 2)
    shards = [count * chunk for count, chunk in zip(counts, chunks, strict=True)]
    leading = layout.shape[:-3]
    return dataclasses.replace(
        layout,
        shape=(*leading, *coarse),
        chunks=(*(1 for _ in leading), *chunks),
        shards=(*(1 for _ in leading), *shards),
        attributes=attributes,
        factors=_triple(factor * own for factor, own in zip(layout.factors, step, strict=True)),
    )


def next_step(shape: _Triple, voxel_size: tuple[float, float, float]) -> Factors:
    """Return how many voxels become one (z, y, x) in the next level: 2 along the axes that are fine, 1 along others.

    Those are fine whose voxels are at most sqrt(2) times as long as the shortest edge; axes of one voxel stay.

    Args:
        shape: of the level.
        voxel_size: of the level, in any unit.
    """
    pairs = [(edge, length) for edge, length in zip(voxel_size, shape, strict=True) if length > 1]
    shortest = min(edge for edge, _ in pairs)
    steps = ((edge, length) for edge, length in zip(voxel_size, shape, strict=True))
    return _triple(2 if length > 1 and edge <= math.sqrt(2) * shortest else 1 for edge, length in steps)


def pieces(box: Box, edges: _Triple) -> Iterator[Box]:
    """Yield the boxes of these edges that a box is made of; those at its end may be smaller."""
    starts = (range(first, stop, edge) for (first, stop), edge in zip(box.ranges, edges, strict=True))
    for start in itertools.product(*starts):
        yield Box.of_shape(edges, start=start).intersection(box)


def _spatial(edges: tuple[int, ...]) -> _Triple:
    return edges[-3], edges[-2], edges[-1]


def _triple(numbers: Any) -> _Triple:
    z, y, x = numbers
    return z, y, x
