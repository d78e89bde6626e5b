"""Reads a box in a volume from `z=13:16,y=0:512`, and fits it to the volume."""

from __future__ import annotations

import re

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import Region

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
