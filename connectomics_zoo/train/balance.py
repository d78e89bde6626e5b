"""Finds the voxels that patches are centred on such that every class is, however rare it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.train.sampling import FOREGROUND_TRIES, Finder, ForegroundFinder
from connectomics_zoo.volumes.pair_reader import PairReader

SEARCHED_BLOCKS = 2**15
"""Blocks of a volume that are all searched, where need be, for a class; of a larger volume, so many random ones."""


def make_finder(reader: PairReader, run: RunSpec, *, block: tuple[int, ...]) -> Finder:
    """Return what finds the voxels of a volume that the recipe centres patches on, in blocks of so many voxels."""
    if run.training.balance == "none":
        return ForegroundFinder(reader, block=block)
    return ClassFinder(reader, task=run.task, block=block)


class ClassFinder:
    """Finds a voxel of a class that is drawn first, among those that the volume annotates and has.

    What it remembers saves reading, and changes no result: that follows from the generator alone.

    Args:
        reader: the volume.
        task: the task, whose scored channels are the classes.
        block: edges (z, y, x) of the blocks that are searched, in network voxels.
    """

    def __init__(self, reader: PairReader, *, task: TaskSpec, block: tuple[int, ...]) -> None:
        self.reader = reader
        self._grid = ForegroundFinder(reader, block=block)
        annotated = reader.pair.annotated
        classes = tuple(
            task.channels[index] for index in task.scored if annotated is None or task.channels[index].name in annotated
        )
        self._task = task.model_copy(update={"channels": classes})
        total = math.prod(self._grid.counts)
        self._searched = np.random.default_rng(0).choice(total, min(total, SEARCHED_BLOCKS), replace=False)
        self._has: dict[int, NDArray[np.bool_]] = {}

    def find(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a random voxel (z, y, x) of a random class, or None if there is none of any."""
        for number in generator.permutation(len(self._task.channels)).tolist():
            for block in self._blocks(generator):
                if block in self._has and not self._has[block][number]:
                    continue
                voxels = np.flatnonzero(self._classes_in(block)[number])
                if voxels.size:
                    box = self._grid.box_of(block)
                    offset = np.unravel_index(int(voxels[int(generator.integers(voxels.size))]), box.shape)
                    return tuple(first + int(step) for first, step in zip(box.start, offset, strict=True))
        return None

    def _blocks(self, generator: np.random.Generator) -> Iterator[int]:
        """Yield blocks in random order: of a large volume some from anywhere, before those that are searched."""
        total = math.prod(self._grid.counts)
        if total > len(self._searched):
            yield from generator.integers(total, size=FOREGROUND_TRIES).tolist()
        yield from generator.permutation(self._searched).tolist()

    def _classes_in(self, block: int) -> NDArray[np.bool_]:
        """Return where in a block each class is (C, Z, Y, X), and remember which are."""
        truth = self.reader.read_truth(self._grid.box_of(block), within=self.reader.box)
        targets = make_targets(
            truth.labels,
            task=self._task,
            voxel_size_nm=self.reader.voxel_size_nm,
            annotated=truth.annotated,
            volumes=tuple(self.reader.labels),
        )
        found: NDArray[np.bool_] = (targets.values > 0.5) & targets.known
        self._has[block] = np.array([voxels.any() for voxels in found])
        return found
