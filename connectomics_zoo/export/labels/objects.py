"""The objects that are exported: what is measured of them, and which of them are chosen."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import OutputError, VolumeError
from connectomics_zoo.measure.run import measure
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes import VoxelSize

_SHOWN = 5
"""Ids that an error names."""


@dataclass(frozen=True)
class Objects:
    """Objects, in the order of their ids."""

    ids: NDArray[np.uint64]
    """Their labels."""
    voxels: NDArray[np.int64]
    """How many each one has."""
    volume_nm3: NDArray[np.float64]
    """How large each one is."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ids)

    def chosen(self, ids: Sequence[int] | None, min_voxels: int, *, location: str) -> Objects:
        """Return those of `ids`, or all, that have so many voxels.

        Raises:
            VolumeError: there are none, or not all of `ids`.
        """
        if not len(self):
            raise VolumeError(f"{location}: holds only background, and no object to export: give labels of objects.")
        is_one = np.ones(len(self), bool)
        if ids is not None:
            known = set(self.ids.tolist())
            missing = [str(one) for one in ids if one not in known]
            if missing:
                named = ", ".join(missing[:_SHOWN]) + (" and more" if len(missing) > _SHOWN else "")
                raise VolumeError(
                    f"{location}: has no object {named}, but {len(self)} with ids from {self.ids[0]} to "
                    f"{self.ids[-1]}: give ids that it has."
                )
            is_one = np.isin(self.ids, np.array(sorted(set(ids)), np.uint64))
        keep = is_one & (self.voxels >= min_voxels)
        if not keep.any():
            largest = self.voxels[is_one].max()
            raise VolumeError(
                f"{location}: has no object of {min_voxels} voxels or more, the largest has {largest}: lower "
                "--min-voxels (min_voxels)."
            )
        return Objects(self.ids[keep], self.voxels[keep], self.volume_nm3[keep])

    def to_bytes(self) -> bytes:
        """Return them as a file of NumPy's."""
        content = io.BytesIO()
        np.savez(content, ids=self.ids, voxels=self.voxels, volume_nm3=self.volume_nm3)
        return content.getvalue()

    def to_csv(self, names: Mapping[int, str], columns: Mapping[str, NDArray[np.float64]]) -> str:
        """Return them as a table, a row each, with more columns."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", *(["name"] if names else []), "voxels", "volume_nm3", *columns])
        for row, one in enumerate(self.ids.tolist()):
            named = [names.get(one, "")] if names else []
            numbers = [f"{values[row]:.10g}" for values in (self.volume_nm3, *columns.values())]
            writer.writerow([one, *named, self.voxels[row], *numbers])
        return text.getvalue()


def from_bytes(content: bytes, *, location: str) -> Objects:
    """Return the objects in a file that `to_bytes` gave.

    Raises:
        OutputError: it is damaged.
    """
    try:
        loaded = np.load(io.BytesIO(content))
        return Objects(loaded["ids"], loaded["voxels"], loaded["volume_nm3"])
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{location}: cannot be read ({error}), begin anew with --overwrite.") from None


def count_objects(labels: str, *, voxel_size_nm: VoxelSize | None, progress: Callable[[Progress], None]) -> Objects:
    """Return all objects of a label volume.

    Raises:
        VolumeError: it holds no labels.
    """
    table = measure(labels, voxel_size_nm=voxel_size_nm, progress=progress).object_table
    return Objects(table["id"], table["voxels"], table["volume_nm3"])
