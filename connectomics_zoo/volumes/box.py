"""Reads a box in a volume from `z=13:16,y=0:512`, and fits it to the volume."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import Region

if TYPE_CHECKING:
    from connectomics_zoo.volumes import Part, Volume

Box = tuple[slice, slice, slice]
"""Slices along (z, y, x) with start and stop."""


_PART = re.compile(r"^([zyx])=(\d{1,12}):(\d{1,12})$")


def parse_region(text: str) -> Region:
    """Return the region that `text` means: `axis=first:stop` for one to three axes, separated by commas.

    Raises:
        VolumeError: `text` is not of that form, names an axis twice, or a range is empty.
    """
    ranges: dict[str, tuple[int, int]] = {}
    for part in text.replace(" ", "").split(","):
        match = _PART.match(part)
        if match is None or match[1] in ranges:
            raise VolumeError(f"the region {text!r} is not understood, write it as z=13:16 or z=13:16,y=0:512,x=0:512.")
        ranges[match[1]] = (int(match[2]), int(match[3]))
        if ranges[match[1]][0] >= ranges[match[1]][1]:
            raise VolumeError(f"the region {text!r} is empty along {match[1]}, give first:stop with first < stop.")
    return Region(**ranges)


def region_box(region: Region | str | None, *, shape: tuple[int, int, int]) -> Box:
    """Return the slices (z, y, x) of `region` in a volume of `shape`; None is the whole volume.

    Raises:
        VolumeError: the region is not understood, is empty or reaches out of the volume.
    """
    if region is None:
        region = Region()
    elif isinstance(region, str):
        region = parse_region(region)
    slices = []
    for axis, size, limits in zip("zyx", shape, (region.z, region.y, region.x), strict=True):
        first, stop = limits or (0, size)
        if not 0 <= first < stop <= size:
            raise VolumeError(
                f"the region {axis}={first}:{stop} is not inside the volume, which has {axis}=0:{size}, "
                "give a part of it."
            )
        slices.append(slice(first, stop))
    return (slices[0], slices[1], slices[2])


def box_shape(box: Box) -> tuple[int, int, int]:
    """Return the voxels of `box` along (z, y, x)."""
    z, y, x = (part.stop - part.start for part in box)
    return (z, y, x)


def box_start(box: Box) -> tuple[int, int, int]:
    """Return the first voxel of `box` (z, y, x)."""
    z, y, x = (part.start for part in box)
    return (z, y, x)


def box_text(box: Box) -> str:
    """Return `box` as a region is written: `z=13:16,y=0:512,x=0:512`."""
    return ",".join(f"{axis}={part.start}:{part.stop}" for axis, part in zip("zyx", box, strict=True))


def box_within(box: Box, start: tuple[int, int, int]) -> Box:
    """Return `box` as seen from `start`."""
    z, y, x = (slice(part.start - first, part.stop - first) for part, first in zip(box, start, strict=True))
    return (z, y, x)


def part_of(box: Box, whole_shape: tuple[int, int, int]) -> Part | None:
    """Return that a volume is of `box` in one of `whole_shape`, None where that is all of it."""
    from connectomics_zoo.volumes import Part

    return None if box_shape(box) == whole_shape else Part(box_start(box), whole_shape)


def aligned_box(
    predicted: Volume, *, shape: tuple[int, int, int], region: Region | str | None, truth: str
) -> tuple[Box, tuple[int, int, int]]:
    """Return the part of a truth that a prediction is compared on, and where in it the prediction's first voxel lies.

    A prediction as large as the truth lies on it. One of a part of a volume of the truth's shape lies where it says
    (`Volume.part`), and is compared on all of itself, or on what of it is in `region`. Another one is as large as the
    region.

    Args:
        predicted: the prediction.
        shape: voxels (z, y, x) of the truth.
        region: the part of the truth; None is all of it, or all that the prediction has.
        truth: names the truth in errors.

    Raises:
        VolumeError: the region reaches out of the truth or of the prediction, or they do not belong together.
    """
    part = predicted.part
    lies = None if part is None or part.whole_shape != shape else _lies(part, predicted.shape)
    if lies is not None and predicted.shape != shape:
        # Axes that the region does not name are taken as far as the prediction goes.
        named = parse_region(region) if isinstance(region, str) else region or Region()
        region = lies.model_copy(update=named.model_dump(exclude_none=True))
    box = region_box(region, shape=shape)
    if predicted.shape == shape:
        return box, (0, 0, 0)
    if part is None or lies is None:
        if predicted.shape == box_shape(box):
            return box, box_start(box)
        wanted = f"{shape}" if region is None else f"{shape} or that of the region, {box_shape(box)}"
        raise VolumeError(
            f"{predicted.location} has the shape {predicted.shape} and {truth} {shape}, the prediction's must be "
            f"{wanted}: give the volumes that belong together, or the part of the truth that it is of (--region)."
        )
    whole = region_box(lies, shape=shape)
    if any(one.start < has.start or one.stop > has.stop for one, has in zip(box, whole, strict=True)):
        raise VolumeError(
            f"{predicted.location}: is of {box_text(whole)}, and the region {box_text(box)} reaches out of it: "
            "give a part of that."
        )
    return box, part.first_voxel


def _lies(part: Part, shape: tuple[int, int, int]) -> Region:
    """Return the region of the whole that a volume of `shape` is."""
    z, y, x = ((first, first + size) for first, size in zip(part.first_voxel, shape, strict=True))
    return Region(z=z, y=y, x=x)
