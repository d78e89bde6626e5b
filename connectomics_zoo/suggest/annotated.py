"""What of a volume is annotated already: by the run's own data, and by masks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.schema.experiment import REQUIRED, RunSpec
from connectomics_zoo.suggest.candidates import Candidates
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.box import Box, annotated_boxes, region_box
from connectomics_zoo.volumes.location import split_place

_log = logging.getLogger(__name__)


def boxes_of_run(run: RunSpec, volume: Volume) -> list[Box]:
    """Return the boxes of a volume that a run was trained or validated on; none where it was on other volumes.

    A run that was given away does not say in which folder its volumes were, and has none. Where a mask or labels say
    what is annotated, and no regions do, there is a warning instead.
    """
    if run.data.root == REQUIRED:
        return []
    boxes: list[Box] = []
    for pair in (*run.data.train, *run.data.validation):
        if not _is_same(pair.image, volume.location, root=run.data.folder):
            continue
        if pair.regions is None and (pair.mask is not None or run.data.unlabelled is not None):
            _log.warning(
                "%s: a mask or labels say what of %s is annotated: give that volume as exclude (--exclude) to leave it "
                "out",
                run.name,
                volume.location,
            )
            continue
        try:
            given = annotated_boxes(pair, shape=volume.shape, location=volume.location)
            boxes += given or (region_box(pair.region, shape=volume.shape, location=volume.location),)
        except VolumeError:
            continue  # the volume has changed since: it has another shape, and the box is none of its
    return boxes


def _is_same(image: str, location: str, *, root: Path | None) -> bool:
    (one, dataset), (other, there) = split_place(image, root=root), split_place(location)
    if isinstance(one, Path) and isinstance(other, Path):
        is_same = one.exists() and other.exists() and one.samefile(other)
    else:
        is_same = one == other
    return is_same and (dataset == there or None in (dataset, there))


def without_annotated(candidates: Candidates, boxes: list[Box]) -> NDArray[np.bool_]:
    """Return which candidates share no voxel with any of the boxes, (N,)."""
    allowed = np.ones(len(candidates.starts), dtype=bool)
    for box in boxes:
        allowed &= ~candidates.overlapping(box)
    return allowed
