"""`measure`: sizes, shapes, intensities and contacts of the objects in a label volume, block by block."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.errors import VolumeError
from connectomics_zoo.measure.blocks import OVERLAP, Labels, count_contacts, count_objects
from connectomics_zoo.measure.checks import read_labels, refuse_grey, refuse_no_labels
from connectomics_zoo.measure.intensity import Scale, narrow_scale, scale_between
from connectomics_zoo.measure.output import TableFile
from connectomics_zoo.measure.report import MeasureReport, contact_columns, object_columns
from connectomics_zoo.measure.tally import Collected, Integers, Tally, sums_alone
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress, silent
from connectomics_zoo.volumes import Box, Volume, VoxelSize, open_volume
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.placement import offset_of_part
from connectomics_zoo.volumes.voxel_size import is_same_voxel_size, lengths

_log = logging.getLogger(__name__)

BLOCK: Edges = (64, 256, 512)
"""Voxels (z, y, x) that are in memory at a time; sums over one stay below 2^53."""


def measure(
    labels: str | Path,
    out: str | Path | None = None,
    *,
    intensity: str | Path | None = None,
    contacts: str | Path | None = None,
    voxel_size_nm: VoxelSize | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> MeasureReport:
    """Measure every object of a label volume, block by block: in memory are a block, and some 200 bytes an object.

    What is counted are whole numbers, whose sums do not depend on how the volume is cut. 0 and the largest id of 32 and
    64 bits are background. A surface is estimated by Crofton's formula from lines in thirteen directions
    (`measure.surface`): a sphere comes out within 2 %, a plane within 7.5 % where voxels are cubes, and up to 31 % too
    small where they are ten times as thick as wide and it lies between the lines. It is counted where an object ends
    inside the volume, and not where the volume ends; there, `at_border` is true and sphericity has no value. Centres
    are in nm from the centre of the volume's first voxel, or where the volume says where that lies, in its world; boxes
    are in voxels of the volume, `first` inside and `stop` behind.

    A contact is the part of an object's surface beyond which there is an object of `contacts`: in the same volume, the
    neighbours'; of an organelle and the cell around it, all that borders on the cell. Gaps between objects are none.

    Args:
        labels: whole numbers; each label but background is an object.
        out: the table of objects to write, `.csv` or `.parquet`; the one of contacts is `OUT_contacts` beside it.
            Without, the report alone has them.
        intensity: a volume as large, or the one that the labels are of a part of; its mean and standard deviation (over
            all voxels of an object) are measured.
        contacts: another label volume, or the same one.
        voxel_size_nm: (z, y, x), where the volumes do not say it.
        overwrite: replace tables that are there.
        progress: is told how many voxels are done.

    Raises:
        VolumeError: a volume cannot be read, holds no labels, or does not fit the others; or the voxel size is unknown.
        OutputError: a table cannot be written.
        MissingPackageError: Parquet needs pyarrow.
    """
    progress = progress or notebook_bar("measure") or silent
    table = None if out is None else TableFile(Path(out), overwrite=overwrite)
    contact_table = None
    if table is not None and contacts is not None:
        beside = table.path.with_stem(f"{table.path.stem}_contacts")
        contact_table = TableFile(beside, overwrite=overwrite)
    with ExitStack() as stack:
        of = stack.enter_context(open_volume(labels, voxel_size_nm=voxel_size_nm))
        refuse_no_labels(of)
        grey = None if intensity is None else stack.enter_context(_beside(of, intensity, is_label=False))
        other = None if contacts is None else stack.enter_context(_beside(of, contacts, is_label=True))
        size_nm = _voxel_size(of, *(beside.volume for beside in (grey, other) if beside is not None))
        scale = None if grey is None else _scale(grey, of, progress)
        objects, pairs = _tallies(of, grey, other, scale=scale, progress=progress)
        columns = object_columns(
            objects, shape=of.shape, voxel_size_nm=size_nm, origin_nm=_origin(of, size_nm), scale=scale
        )
        is_same = other is not None and other.volume.location == of.location
        met = None if other is None else contact_columns(pairs, voxel_size_nm=size_nm, is_same=is_same)
        if table is not None:
            table.write(columns)
        if contact_table is not None and met is not None:
            contact_table.write(met)
        return MeasureReport(
            labels=of.location,
            intensity=None if grey is None else grey.volume.location,
            contacts=None if other is None else other.volume.location,
            out=None if table is None else str(table.path),
            contacts_out=None if contact_table is None else str(contact_table.path),
            voxel_size_nm=size_nm,
            objects=len(objects),
            pairs=0 if met is None else len(met["id"]),
            object_table=columns,
            contact_table=met,
        )


@dataclass(frozen=True)
class _Beside:
    """A volume that is measured with the labels, and where in it their first voxel lies."""

    volume: Volume
    start: tuple[int, int, int]

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box of the labels."""
        values = self.volume.read_plain(box.moved(self.start))
        return values.view(np.uint8) if values.dtype.kind == "b" else values

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self.volume.close()


def _beside(labels: Volume, location: str | Path, *, is_label: bool) -> _Beside:
    """Open a volume that is measured with the labels.

    Raises:
        VolumeError: it cannot be read, does not belong to them, or has channels or no labels.
    """
    volume = open_volume(location)
    try:
        if is_label:
            refuse_no_labels(volume)
        elif volume.channels not in (None, 1):
            raise VolumeError(
                f"{volume.location}: has {volume.channels} channels, and the intensity of one is measured: save that "
                "channel alone."
            )
        return _Beside(volume, _start_in(volume, labels))
    except BaseException:
        volume.close()
        raise


def _start_in(volume: Volume, labels: Volume) -> tuple[int, int, int]:
    """Return where the first voxel of the labels lies in a volume.

    Raises:
        VolumeError: they are not of the same voxels.
    """
    part, its_part = labels.placement, volume.placement
    if part is not None and part.whole_shape == volume.shape:
        return part.box.start
    if labels.shape != volume.shape:
        raise VolumeError(
            f"{labels.location} and {volume.location}: have the shapes {labels.shape} and {volume.shape}, and they "
            "must be equal, or the labels say of which part of the other they are: give volumes that belong together."
        )
    if part is not None and its_part is not None and part != its_part:
        raise VolumeError(
            f"{labels.location} and {volume.location}: are of the parts {part.box} and {its_part.box}: give volumes of "
            "the same one."
        )
    return 0, 0, 0


def _voxel_size(labels: Volume, *others: Volume) -> VoxelSize:
    """Return the voxel size that a volume says.

    Raises:
        VolumeError: none does, or two differ.
    """
    known = [volume for volume in (labels, *others) if volume.voxel_size_nm is not None]
    for volume in known[1:]:
        assert volume.voxel_size_nm is not None
        assert known[0].voxel_size_nm is not None
        if not is_same_voxel_size(known[0].voxel_size_nm, volume.voxel_size_nm):
            raise VolumeError(
                f"{known[0].location} and {volume.location}: say that their voxels are "
                f"{lengths(known[0].voxel_size_nm)} and {lengths(volume.voxel_size_nm)} nm, and they must be equal, "
                "correct one."
            )
    if not known:
        raise VolumeError(
            f"{labels.location}: does not say how large its voxels are, and sizes are measured in nm: give the voxel "
            "size (z, y, x) in nm (--voxel-size-nm, voxel_size_nm)."
        )
    assert known[0].voxel_size_nm is not None
    return known[0].voxel_size_nm


def _origin(labels: Volume, voxel_size_nm: VoxelSize) -> VoxelSize:
    """Return where the centre of the first voxel lies: as its store says, else in the volume that it is a part of."""
    if labels.offset_nm is not None:
        return labels.offset_nm
    first = (0, 0, 0) if labels.placement is None else labels.placement.box.start
    return offset_of_part(first, voxel_size_nm=voxel_size_nm, whole_offset_nm=None)


def _scale(grey: _Beside, labels: Volume, progress: Callable[[Progress], None]) -> Scale:
    """Return how intensities become whole numbers; of floats and wide integers, after looking at all of them."""
    dtype = grey.volume.dtype
    scale = narrow_scale(np.dtype(np.uint8) if dtype.kind == "b" else dtype)
    if scale is not None:
        return scale
    lows, highs = [], []
    for box in _blocks(labels, progress, label="range of intensities"):
        values = grey.read(box)
        lows.append(values.min().item())
        highs.append(values.max().item())
    return scale_between(min(lows), max(highs), dtype=dtype)


def _blocks(labels: Volume, progress: Callable[[Progress], None], *, label: str) -> Iterator[Box]:
    """Yield the blocks, and tell how far they are."""
    grid = BlockGrid(labels.whole, BLOCK)
    done = 0
    for index in range(len(grid)):
        progress(Progress(done, grid.box.voxels, "voxels", label=label))
        box = grid.box_of(index)
        yield box
        done += box.voxels
    progress(Progress(done, grid.box.voxels, "voxels", label=label))


def _tallies(
    labels: Volume,
    grey: _Beside | None,
    other: _Beside | None,
    *,
    scale: Scale | None,
    progress: Callable[[Progress], None],
) -> tuple[Tally, Tally]:
    """Return the sums of the objects, and of their pairs with those of the other volume."""
    objects, pairs = Collected(), Collected()
    pairs.add(sums_alone(np.zeros((0, 2), np.uint64), np.zeros((0, OVERLAP + 1), np.int64)))
    looks = [(volume, LabelLook()) for volume in (labels, None if other is None else other.volume)]
    for core in _blocks(labels, progress, label="objects"):
        around = _grown(core).intersection(labels.whole)
        inner = core.relative_to(around.start).slices
        here = Labels(read_labels(labels, around, looks[0][1], inner=inner, read=labels.read_plain))
        numbers: Integers | None = None
        if grey is not None and scale is not None:
            numbers = scale.numbers(grey.read(core))
        objects.add(count_objects(here, core, around=around, intensity=numbers))
        if other is not None:
            there = Labels(read_labels(other.volume, around, looks[1][1], inner=inner, read=other.read))
            pairs.add(count_contacts(here, there, core, around=around))
    total = objects.total()
    for volume, look in looks:
        if volume is not None:
            refuse_grey(volume, look)
    if len(total) == 1 and labels.content != "instances":
        _log.warning(
            "%s: has a single label, %s, and so a single object; if it is a mask, label its objects first.",
            labels.location,
            total.keys[0, 0],
        )
    return total.select(total.sums[:, 0] > 0), pairs.total()


def _grown(box: Box) -> Box:
    """Return a box with one more voxel behind it along each axis."""
    return Box.of_ranges((first, stop + 1) for first, stop in box.ranges)
