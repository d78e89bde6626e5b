"""The output of a job: an array of shards while it is unfinished, and what was asked for at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.blocks.job import Cut, Job
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Advance
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import move_into_place
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes import Box, StoredPrediction, VoxelSize, create_volume, open_volume
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import FORMAT_OF_SUFFIX
from connectomics_zoo.volumes.multiscale import Levels, levels_of
from connectomics_zoo.volumes.prediction import to_attributes
from connectomics_zoo.volumes.uri import Place
from connectomics_zoo.volumes.zarr_writing import ArrayLayout, ArrayWriter, create_array, finish_array

FEW_SHARDS = 64
"""A level of so many shards at most is made by this process, which takes less time than to start others."""

_HERE = Where()


@dataclass(frozen=True)
class _MakeShard:
    """Makes shards of a coarser level."""

    levels: Levels
    number: int
    grid: BlockGrid

    def __call__(self, index: int, advance: Advance) -> None:
        """Make one of them."""
        self.levels.make(self.number, self.grid.box_of(index))


class BlockOutput:
    """A volume that is written in blocks, by any number of processes.

    Args:
        place: path and dataset, as `check_volume_place` returns them.
        cut: what it holds, in voxels of the volume that it is made of, and how it is cut.
        channels: its channels, None for none.
        dtype: its data type.
        voxel_size_nm: its voxel size (z, y, x).
        offset: where its first voxel lies (z, y, x), in nm, or in voxels where the voxel size is not known; a Zarr says
            it.
        multiscale: whether coarser levels follow, which a Zarr alone has.
        overwrite: whether it replaces what is there.

    Raises:
        OutputError: it is not possible.
    """

    def __init__(
        self,
        place: tuple[Place, str | None],
        *,
        cut: Cut,
        channels: int | None,
        dtype: str,
        voxel_size_nm: VoxelSize | None,
        offset: Offset = (0.0, 0.0, 0.0),
        multiscale: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._box = cut.grid.box
        self.cut = cut
        self._channels = channels
        self.dtype = np.dtype(dtype)
        self._voxel_size_nm = voxel_size_nm
        self._offset = offset
        self._multiscale = multiscale
        self._overwrite = overwrite
        self.place, self._dataset = place
        self.job = Job(self.place)
        self._writer: ArrayWriter | None = None

    @property
    def location(self) -> str:
        """Path and dataset."""
        return str(self.place) if self._dataset is None else f"{self.place}:{self._dataset}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X), or (C, Z, Y, X)."""
        return self._full(self._box.shape)

    def create(self, stored: StoredPrediction) -> None:
        """Make the array of shards, which says that it is unfinished, in place of what is there.

        Args:
            stored: what the output says of itself.

        Raises:
            OutputError: it cannot be written.
        """
        create_array(self.job.unfinished, dataset=self._group, layout=self._layout(stored), finished=False)

    def _layout(self, stored: StoredPrediction) -> ArrayLayout:
        return ArrayLayout(
            shape=self.shape,
            dtype=self.dtype,
            chunks=self._full(self.cut.chunks, channels=1),
            shards=self._full(self.cut.shards, channels=1),
            voxel_size_nm=self._voxel_size_nm,
            attributes=to_attributes(stored),
            offset=self._offset,
        )

    def levels(self, stored: StoredPrediction) -> Levels:
        """Return the levels of the output, of which there is one alone where coarser ones were not asked for."""
        return levels_of(
            self.job.unfinished,
            dataset=self._group,
            layout=self._layout(stored),
            stored=stored,
            multiscale=self._multiscale,
        )

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write (C, Z, Y, X), with one channel where there are none, at `box`: whole shards, in voxels of the volume.

        Raises:
            OutputError: it cannot be written.
        """
        if self._writer is None:
            self._writer = ArrayWriter(self.job.unfinished, dataset=self._group)
        index = box.relative_to(self._box.start).slices
        if self._channels is None:
            self._writer.write(index, array[0])
        else:
            self._writer.write((slice(0, self._channels), *index), array)

    @property
    def _is_zarr(self) -> bool:
        return FORMAT_OF_SUFFIX[self.place.suffix.lower()] == "zarr"

    @property
    def _group(self) -> str | None:
        """The group of the array of shards."""
        return self._dataset if self._is_zarr else None

    def is_to_be_moved(self) -> bool:
        """Whether what becomes the output as it is has still to be moved to its place."""
        unfinished = self.job.unfinished
        return self._is_zarr and isinstance(unfinished, Path) and self.job.folder is not None and unfinished.exists()

    def finish(
        self, stored: StoredPrediction, *, where: Where = _HERE, progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Make the coarser levels, let the output appear where it was asked for, and remove the job's folder.

        Args:
            stored: what the output says of itself.
            where: where large levels are made.
            progress: is told how many voxels of a level are done.

        Raises:
            OutputError: the disk does not take it, or something else took the place meanwhile.
            CheckFailedError: other processes have failed with a shard of a level three times.
        """
        unfinished = self.job.unfinished
        if not isinstance(unfinished, Path) or not isinstance(self.place, Path):
            self._make_levels(stored, where=where, progress=progress)
        elif unfinished.exists():  # else it was moved before the process was killed
            if os.path.lexists(self.place) and not self._overwrite:
                raise OutputError(
                    f"{self.place}: appeared while it was being made and stays as it is: rename or delete it and "
                    f"repeat the command, which finishes what is in {self.job.place}."
                )
            if self._is_zarr:
                self._make_levels(stored, where=where, progress=progress)
                move_into_place(unfinished, self.place, overwrite=self._overwrite)
            else:
                self._assemble(stored)
        self.job.remove()

    def _make_levels(
        self, stored: StoredPrediction, *, where: Where, progress: Callable[[Progress], None] | None
    ) -> None:
        """Make the shards of the coarser levels that are not done, and finish the image."""
        levels = self.levels(stored)
        for number in range(1, len(levels.layouts)):
            levels.create(number)
            shape, shards = levels.shape_of(number)
            grid = BlockGrid(Box.of_shape(shape), shards)
            is_large = len(grid) > FEW_SHARDS and where.shard is None
            run_blocks(
                self.job,
                f"level-{number}",
                _MakeShard(levels, number, grid),
                grid=grid,
                where=where if is_large else _HERE,
                progress=progress,
                label=f"level {number}",
            )
        levels.finish()

    def _assemble(self, stored: StoredPrediction) -> None:
        """Make a file of the array of shards, a row of shards at a time."""
        finish_array(self.job.unfinished, dataset=None, levels=[self._layout(stored)])
        with (
            open_volume(str(self.job.unfinished)) as source,
            create_volume(
                self.location,
                shape=self._box.shape,
                dtype=self.dtype,
                channels=self._channels,
                voxel_size_nm=self._voxel_size_nm,
                stored=stored,
                overwrite=self._overwrite,
            ) as target,
        ):
            depth, height = self.cut.shards[:2]
            for z in range(0, target.shape[0], depth):
                for y in range(0, target.shape[1], height):
                    box = Box((z, y, 0), (z + depth, y + height, target.shape[2])).intersection(target.whole)
                    target.write(box, source.read(box))

    def _full(self, edges: tuple[int, int, int], channels: int | None = None) -> tuple[int, ...]:
        return edges if self._channels is None else (channels or self._channels, *edges)
