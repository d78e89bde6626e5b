"""Finds the voxels that patches are centred on such that every class is, however rare it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader

SEARCHED_BLOCKS = 2**15
"""Blocks of a volume that are all searched, where need be, for a class; of a larger volume, so many random ones."""

FIRST_BLOCKS = 256
"""Blocks from anywhere in a larger volume that are tried before."""


def class_search(reader: PairReader, *, run: RunSpec) -> ClassSearch | None:
    """Return what finds the classes of a volume, None where the recipe does not balance them."""
    return None if run.training.balance == "none" else ClassSearch(reader, task=run.task)


class ClassSearch:
    """Finds a voxel of a class that is drawn first, among those that the volume annotates and has.

    What it remembers saves reading, and changes no result: that follows from the generator alone.

    Args:
        reader: the volume.
        task: the task, whose scored channels are the classes.
    """

    def __init__(self, reader: PairReader, *, task: TaskSpec) -> None:
        self._reader = reader
        annotated = reader.pair.annotated
        classes = tuple(
            task.channels[index] for index in task.scored if annotated is None or task.channels[index].name in annotated
        )
        self._task = task.model_copy(update={"channels": classes})
        self._has: dict[int, NDArray[np.bool_]] = {}

    def find(
        self, generator: np.random.Generator, box_of: Callable[[int], Box], *, blocks: int
    ) -> tuple[int, ...] | None:
        """Return a random voxel (z, y, x) of a random class, or None if there is none of any.

        Args:
            generator: source of randomness.
            box_of: returns the network voxels of a block.
            blocks: the number of blocks.
        """
        for number in generator.permutation(len(self._task.channels)).tolist():
            for block in _in_random_order(blocks, generator):
                if block in self._has and not self._has[block][number]:
                    continue
                box = box_of(block)
                voxel = random_voxel(self._classes_in(block, box)[number], box, generator)
                if voxel is not None:
                    return voxel
        return None

    def _classes_in(self, block: int, box: Box) -> NDArray[np.bool_]:
        """Return where in a block each class is (C, Z, Y, X), and remember which are."""
        truth = self._reader.read_truth(box, within=self._reader.box)
        targets = make_targets(
            truth.labels,
            task=self._task,
            voxel_size_nm=self._reader.voxel_size_nm,
            annotated=truth.annotated,
            volumes=tuple(self._reader.labels),
        )
        found: NDArray[np.bool_] = (targets.values > 0.5) & targets.known
        self._has[block] = np.array([voxels.any() for voxels in found])
        return found


def _in_random_order(blocks: int, generator: np.random.Generator) -> Iterator[int]:
    """Yield the numbers of blocks: of many, some from anywhere, and then some that are always the same."""
    if blocks > SEARCHED_BLOCKS:
        yield from generator.integers(blocks, size=FIRST_BLOCKS).tolist()
    searched = np.random.default_rng(0).choice(blocks, min(blocks, SEARCHED_BLOCKS), replace=False)
    yield from generator.permutation(searched).tolist()


def random_voxel(where: NDArray[np.bool_], box: Box, generator: np.random.Generator) -> tuple[int, ...] | None:
    """Return a random voxel (z, y, x) of `box` that is True in `where`, None if none is."""
    found = np.flatnonzero(where)
    if not found.size:
        return None
    offset = np.unravel_index(int(found[int(generator.integers(found.size))]), where.shape)
    return tuple(first + int(step) for first, step in zip(box.start, offset, strict=True))
