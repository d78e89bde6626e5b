"""Which part of a truth a prediction is compared with."""

from __future__ import annotations

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.volumes.box import AnyRegion, Box, refuse_outside, region_box
from connectomics_zoo.volumes.volume import Volume


def aligned_box(
    predicted: Volume, *, shape: tuple[int, int, int], region: AnyRegion, truth: str
) -> tuple[Box, tuple[int, int, int]]:
    """Return the part of a truth that a prediction is compared on, and where in it the prediction's first voxel lies.

    A prediction as large as the truth lies on it. One of a part of a volume of the truth's shape lies where it says
    (`Volume.placement`), and is compared on all of itself, or on what of it is in `region`. Another one is as large as
    the region.

    Args:
        predicted: the prediction.
        shape: voxels (z, y, x) of the truth.
        region: the part of the truth; None is all of it, or all that the prediction has.
        truth: names the truth in errors.

    Raises:
        VolumeError: the region reaches out of the truth or of the prediction, or they do not belong together.
        SpecError: where the prediction says that it lies is no place.
    """
    if predicted.shape == shape:
        return region_box(region, shape=shape, location=truth), (0, 0, 0)
    placement = predicted.placement
    if placement is None or placement.whole_shape != shape:
        box = region_box(region, shape=shape, location=truth)
        if predicted.shape == box.shape:
            return box, box.start
        wanted = f"{shape}" if region is None else f"{shape} or that of the region, {box.shape}"
        raise VolumeError(
            f"{predicted.location} has the shape {predicted.shape} and {truth} {shape}, the prediction's must be "
            f"{wanted}: give the volumes that belong together, or the part of the truth that it is of (--region)."
        )
    refuse_outside(placement.box.ranges, shape=shape, location=truth)
    # Axes that the region does not name are taken as far as the prediction goes.
    box = region_box(region, shape=shape, location=truth, default=placement.box)
    if not placement.box.contains(box):
        raise VolumeError(
            f"{predicted.location}: is of {placement.box}, and the region {box} reaches out of it: give a part of that."
        )
    return box, placement.box.start
