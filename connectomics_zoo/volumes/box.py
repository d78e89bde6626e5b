"""A box of voxels, and which one a region such as `z=13:16,y=0:512` is in a volume."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import Region, VolumePair

AnyRegion = Region | str | None
"""A region, the text of one (`z=13:16,y=0:512`), or None for everything."""

_RANGE = re.compile(r"^([zyx])=(\d{1,12}):(\d{1,12})$")


@dataclass(frozen=True, slots=True)
class Box:
    """The voxels from `start` on that lie before `stop` along every axis; it may reach out of a volume."""

    start: tuple[int, int, int]
    """First voxel (z, y, x)."""
    stop: tuple[int, int, int]
    """One past the last voxel (z, y, x)."""

    def __post_init__(self) -> None:
        assert all(first <= stop for first, stop in self.ranges), repr(self)

    @classmethod
    def of_ranges(cls, ranges: Iterable[tuple[int, int]]) -> Box:
        """Return the box of [first, stop) along z, y and x."""
        z, y, x = ranges
        return cls((z[0], y[0], x[0]), (z[1], y[1], x[1]))

    @classmethod
    def of_shape(cls, shape: Sequence[int], *, start: Sequence[int] = (0, 0, 0)) -> Box:
        """Return the box of `shape` (z, y, x) whose first voxel is `start`."""
        return cls.of_ranges((first, first + edge) for first, edge in zip(start, shape, strict=True))

    @property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """[first, stop) along z, y and x."""
        z, y, x = zip(self.start, self.stop, strict=True)
        return z, y, x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The index of its voxels in an array (Z, Y, X)."""
        z, y, x = (slice(*limits) for limits in self.ranges)
        return z, y, x

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its edges (z, y, x) in voxels."""
        z, y, x = (stop - first for first, stop in self.ranges)
        return z, y, x

    @property
    def voxels(self) -> int:
        """How many voxels it has."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        """Return it as a region is written: `z=13:16,y=0:512,x=0:512`."""
        return ",".join(f"{axis}={first}:{stop}" for axis, (first, stop) in zip("zyx", self.ranges, strict=True))

    def contains(self, other: Box) -> bool:
        """Whether `other` reaches out of it nowhere."""
        limits = zip(self.start, self.stop, other.start, other.stop, strict=True)
        return all(low <= first and stop <= high for low, high, first, stop in limits)

    def overlaps(self, other: Box) -> bool:
        """Whether there is a voxel that both have."""
        limits = zip(self.start, self.stop, other.start, other.stop, strict=True)
        return all(max(low, first) < min(high, stop) for low, high, first, stop in limits)

    def intersection(self, other: Box) -> Box:
        """Return the voxels that both have; where there are none, an empty box."""
        pairs = zip(self.ranges, other.ranges, strict=True)
        return Box.of_ranges(
            (max(first, low), max(first, low, min(stop, high))) for (first, stop), (low, high) in pairs
        )

    def without(self, other: Box) -> list[Box]:
        """Return boxes that share no voxel and have, together, its voxels that are not in `other`."""
        if not self.overlaps(other):
            return [self] if self.voxels else []
        shared, left = self.intersection(other), self
        pieces = []
        for axis, (first, stop) in zip("zyx", shared.ranges, strict=True):
            low, high = left.ranges["zyx".index(axis)]
            pieces += [left.replace(**{axis: (low, first)}), left.replace(**{axis: (stop, high)})]
            left = left.replace(**{axis: (first, stop)})
        return [piece for piece in pieces if piece.voxels]

    def moved(self, by: tuple[int, int, int]) -> Box:
        """Return it `by` voxels (z, y, x) further on."""
        return Box.of_ranges((first + step, stop + step) for (first, stop), step in zip(self.ranges, by, strict=True))

    def widened(self, by: Sequence[int]) -> Box:
        """Return it `by` voxels (z, y, x) larger on each side."""
        return Box.of_ranges((first - more, stop + more) for (first, stop), more in zip(self.ranges, by, strict=True))

    def relative_to(self, origin: tuple[int, int, int]) -> Box:
        """Return it as counted from the voxel `origin` (z, y, x)."""
        z, y, x = origin
        return self.moved((-z, -y, -x))

    def scaled(self, factors: tuple[int, int, int]) -> Box:
        """Return it in voxels of which `factors` (z, y, x) make one of its own."""
        pairs = zip(self.ranges, factors, strict=True)
        return Box.of_ranges((first * factor, stop * factor) for (first, stop), factor in pairs)

    def middle(self, most: tuple[int, int, int]) -> Box:
        """Return its middle of at most `most` voxels (z, y, x)."""
        spare = [max(0, edge - limit) for edge, limit in zip(self.shape, most, strict=True)]
        pairs = zip(self.ranges, spare, strict=True)
        return Box.of_ranges((first + more // 2, stop - (more - more // 2)) for (first, stop), more in pairs)

    def replace(
        self, *, z: tuple[int, int] | None = None, y: tuple[int, int] | None = None, x: tuple[int, int] | None = None
    ) -> Box:
        """Return it with other voxels [first, stop) along the axes that are given."""
        return Box.of_ranges(given or own for given, own in zip((z, y, x), self.ranges, strict=True))


def disjoint(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Return boxes that share no voxel and have together those of `boxes`; one that shares none stays as it is."""
    given = [box for box in boxes if box.voxels]
    starts, stops = (np.array([getattr(box, end) for box in given]).reshape(-1, 3) for end in ("start", "stop"))
    found: list[list[Box]] = []
    for number, box in enumerate(given):
        shared = (starts[:number] < stops[number]) & (starts[number] < stops[:number])
        pieces = [box]
        for earlier in np.flatnonzero(shared.all(axis=1)).tolist():
            for other in found[earlier]:
                pieces = [part for piece in pieces for part in piece.without(other)]
        found.append(pieces)
    return tuple(piece for pieces in found for piece in pieces)


def annotated_boxes(pair: VolumePair, *, shape: tuple[int, int, int], location: str) -> tuple[Box, ...] | None:
    """Return the annotated regions of a pair as they are given, within its part; None where all of that is annotated.

    Raises:
        VolumeError: one reaches out of the volume, or lies outside of the part.
    """
    if not pair.regions:
        return None
    part = region_box(pair.region, shape=shape, location=location)
    boxes = tuple(region_box(region, shape=shape, location=location, default=part) for region in pair.regions)
    for box in boxes:
        if not part.contains(box):
            raise VolumeError(
                f"the annotated region {box} of {location} reaches out of the part that is used, {part}: make that "
                "larger (region), or the annotated region smaller."
            )
    return boxes


def as_region(box: Box) -> Region:
    """Return a box as a spec has it."""
    z, y, x = box.ranges
    return Region(z=z, y=y, x=x)


def parse_region(text: str) -> Region:
    """Return the region that `text` means: `axis=first:stop` for one to three axes, separated by commas.

    Raises:
        VolumeError: `text` is not of that form, names an axis twice, or a range is empty.
    """
    ranges: dict[str, tuple[int, int]] = {}
    for part in text.replace(" ", "").split(","):
        match = _RANGE.match(part)
        if match is None or match[1] in ranges:
            raise VolumeError(f"the region {text!r} is not understood, write it as z=13:16 or z=13:16,y=0:512,x=0:512.")
        ranges[match[1]] = (int(match[2]), int(match[3]))
        if ranges[match[1]][0] >= ranges[match[1]][1]:
            raise VolumeError(f"the region {text!r} is empty along {match[1]}, give first:stop with first < stop.")
    return Region(**ranges)


def region_text(region: AnyRegion) -> str | None:
    """Return a region as text, None where it names no axis."""
    if region is None or isinstance(region, str):
        return region
    ranges = {axis: getattr(region, axis) for axis in "zyx"}
    return ",".join(f"{axis}={limits[0]}:{limits[1]}" for axis, limits in ranges.items() if limits) or None


def region_box(region: AnyRegion, *, shape: tuple[int, int, int], location: str, default: Box | None = None) -> Box:
    """Return the box of `region` in a volume.

    Args:
        region: the region; None names no axis.
        shape: voxels (z, y, x) of the volume.
        location: names the volume in errors.
        default: what is taken along axes that the region does not name; None is all of the volume.

    Raises:
        VolumeError: the region is not understood, is empty or reaches out of the volume.
    """
    if isinstance(region, str):
        region = parse_region(region)
    named = (None, None, None) if region is None else (region.z, region.y, region.x)
    usual = Box.of_shape(shape) if default is None else default
    ranges = [given or own for given, own in zip(named, usual.ranges, strict=True)]
    refuse_outside(ranges, shape=shape, location=location)
    return Box.of_ranges(ranges)


def refuse_outside(ranges: Iterable[tuple[int, int]], *, shape: tuple[int, int, int], location: str) -> None:
    """Refuse voxels [first, stop) along z, y and x that are none, or are not in the volume of `shape` at `location`.

    Raises:
        VolumeError: they are empty or reach out of the volume.
    """
    for axis, (first, stop), size in zip("zyx", ranges, shape, strict=True):
        if not 0 <= first < stop <= size:
            problem = "is empty in" if first == stop else "is not inside"
            raise VolumeError(
                f"the region {axis}={first}:{stop} {problem} {location}, which has {axis}=0:{size}: give "
                f"first:stop with 0 <= first < stop <= {size}."
            )
