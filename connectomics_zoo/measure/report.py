"""What measuring gives: columns of objects and of contacts, from sums of whole numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.measure.blocks import CROSSINGS, INTENSITIES, OVERLAP, POSITIONS, VOXELS
from connectomics_zoo.measure.intensity import BITS, Scale
from connectomics_zoo.measure.surface import DIRECTIONS, FACES, crossing_areas
from connectomics_zoo.measure.tally import Integers, Tally
from connectomics_zoo.schema.report import Report, Table
from connectomics_zoo.volumes import VoxelSize

Columns = Mapping[str, NDArray[Any]]
"""Values by the names of columns, all of one length; NaN where there is no value."""

_MOST_ROWS = 20
"""Objects that a notebook shows."""


@dataclass(frozen=True)
class MeasureReport(Report):
    """What was measured: the objects, and their contacts."""

    labels: str
    """The label volume."""
    intensity: str | None
    """The volume whose values were averaged."""
    contacts: str | None
    """The label volume whose contacts were measured."""
    out: str | None
    """The table of objects that was written."""
    contacts_out: str | None
    """The table of contacts that was written."""
    voxel_size_nm: VoxelSize
    """Edge lengths of a voxel (z, y, x)."""
    objects: int
    """Objects."""
    pairs: int
    """Pairs of an object and one of the other volume."""
    object_table: Columns = dataclasses.field(repr=False)
    """A value for each object, in the order of their ids."""
    contact_table: Columns | None = dataclasses.field(repr=False)
    """A value for each pair, in the order of their ids."""

    def summary(self) -> dict[str, Any]:
        """Return all but the tables."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if not field.name.endswith("_table")}

    def table(self) -> Table:
        """Return a row for each of the first objects."""
        columns = [[_shown(value) for value in column[:_MOST_ROWS]] for column in self.object_table.values()]
        return Table(tuple(self.object_table), list(zip(*columns, strict=True)))


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, np.floating) else str(value)


def object_columns(
    tally: Tally, *, shape: tuple[int, int, int], voxel_size_nm: VoxelSize, origin_nm: VoxelSize, scale: Scale | None
) -> dict[str, NDArray[Any]]:
    """Return the columns of the objects.

    Args:
        tally: the sums of `blocks.count_objects`.
        shape: of the volume, in voxels (z, y, x).
        voxel_size_nm: edge lengths of a voxel (z, y, x).
        origin_nm: where the centre of the first voxel lies (z, y, x).
        scale: what the whole numbers of intensities stand for, None without.
    """
    voxels = tally.sums[:, VOXELS]
    volume = voxels * math.prod(voxel_size_nm)
    surface = tally.sums[:, CROSSINGS] @ crossing_areas(voxel_size_nm)
    border = (tally.low == 0).any(axis=1) | (tally.high == np.array(shape) - 1).any(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sphericity = np.where(border, np.nan, math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface)
    columns = {"id": tally.keys[:, 0], "voxels": voxels, "volume_nm3": volume, "surface_nm2": surface}
    columns["sphericity"] = sphericity
    for axis, name in enumerate("zyx"):
        mean = tally.sums[:, POSITIONS.start + axis] / voxels
        columns[f"centre_{name}_nm"] = origin_nm[axis] + mean * voxel_size_nm[axis]
    for axis, name in enumerate("zyx"):
        columns[f"first_{name}"] = tally.low[:, axis]
        columns[f"stop_{name}"] = tally.high[:, axis] + 1
    columns["at_border"] = border
    if scale is not None:
        pairs = [_mean_and_deviation(row, scale) for row in tally.sums]
        columns["mean_intensity"], columns["sd_intensity"] = np.array(pairs, np.float64).reshape(-1, 2).T
    return columns


def _mean_and_deviation(row: Integers, scale: Scale) -> tuple[float, float]:
    total, high, low = (int(value) for value in row[INTENSITIES])
    return scale.mean_and_deviation(int(row[VOXELS]), total, (high << BITS) + low)


def contact_columns(tally: Tally, *, voxel_size_nm: VoxelSize, is_same: bool) -> dict[str, NDArray[Any]]:
    """Return the columns of the pairs that have a face in common, or voxels.

    Args:
        tally: the sums of `blocks.count_contacts`.
        voxel_size_nm: edge lengths of a voxel (z, y, x).
        is_same: whether both volumes are one; then no object is paired with itself.
    """
    crossings, overlap = tally.sums[:, : len(DIRECTIONS)], tally.sums[:, OVERLAP]
    keep = (crossings[:, FACES].sum(axis=1) > 0) | (overlap > 0)
    if is_same:
        keep &= tally.keys[:, 0] != tally.keys[:, 1]
    return {
        "id": tally.keys[keep, 0],
        "other_id": tally.keys[keep, 1],
        "contact_nm2": crossings[keep] @ crossing_areas(voxel_size_nm),
        "overlap_voxels": overlap[keep],
        "overlap_nm3": overlap[keep] * math.prod(voxel_size_nm),
    }
