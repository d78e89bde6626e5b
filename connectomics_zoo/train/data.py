"""Patches for training (random, with foreground) and for validation (a grid), read from volumes on disk."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from connectomics_zoo.network.threads import keep_blas_to_one_thread
from connectomics_zoo.schema.augmentation import augmentation_of
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.train.augment import Sample, augment
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.location import survives_fork
from connectomics_zoo.volumes.pair_reader import PairReader

FOREGROUND_TRIES = 256
"""Blocks (of half a patch's edges) drawn in search of a labelled voxel before a patch may lie anywhere."""

MINIMUM_TRIES = 50
"""Patches drawn in search of one with `foreground_minimum`, of which the last may have less."""

REMEMBERED_BLOCKS = 2**20
"""Blocks without labels that are remembered for each volume."""


class Patch(NamedTuple):
    """What a data loader stacks into a batch."""

    image: Tensor
    """(C, Z, Y, X), intensities scaled to 0..1."""
    targets: Tensor
    """(C, Z, Y, X)."""
    mask: Tensor
    """(C, Z, Y, X), True where the target is known and, in validation, where this patch is the one that is scored."""


class ForegroundFinder:
    """Finds labelled voxels of a region block by block; no block that has none is read twice.

    What it remembers saves reading, and changes no result: that follows from the generator alone.

    Args:
        reader: the volume.
        block: edges (z, y, x) of a block in network voxels; the last one along an axis may be larger.
    """

    def __init__(self, reader: PairReader, *, block: tuple[int, ...]) -> None:
        self.reader = reader
        self.block = block
        self.counts = tuple(max(1, length // edge) for length, edge in zip(reader.box.shape, block, strict=True))
        """Blocks along (z, y, x)."""
        self._empty: set[int] = set()

    def find(self, generator: np.random.Generator) -> tuple[int, ...] | None:
        """Return a random labelled voxel (z, y, x) of a random block that has one, or None if none was found."""
        for number in generator.integers(math.prod(self.counts), size=FOREGROUND_TRIES).tolist():
            if number in self._empty:
                continue
            box = self._box(number)
            labelled = self.reader.read_label(box, within=self.reader.box) > 0
            found = np.flatnonzero(labelled)
            if found.size:
                offset = np.unravel_index(int(found[int(generator.integers(found.size))]), labelled.shape)
                return tuple(first + int(step) for first, step in zip(box.start, offset, strict=True))
            if len(self._empty) < REMEMBERED_BLOCKS:
                self._empty.add(number)
        return None

    def _box(self, number: int) -> Box:
        steps = map(int, np.unravel_index(number, self.counts))
        return Box.of_ranges(
            (first + step * edge, last if step == count - 1 else first + (step + 1) * edge)
            for step, (first, last), edge, count in zip(
                steps, self.reader.box.ranges, self.block, self.counts, strict=True
            )
        )


class TrainingPatches(IterableDataset[Patch]):
    """An endless stream of random patches, for `training_loader`.

    Each patch follows from the seed and its number alone, so that any number of workers gives the same batches, and a
    resumed run the batches that it would have had.

    Args:
        run: the complete run.
        skip: batches that a resumed run has behind it, which are not drawn again.
    """

    def __init__(self, run: RunSpec, *, skip: int = 0) -> None:
        self.run = run
        self.skip = skip
        self.augmentation = augmentation_of(run.training.augmentation)

    def __iter__(self) -> Iterator[Patch]:
        for finder, generator in self._draws():
            yield self._draw(finder, generator)

    def samples(self) -> Iterator[tuple[Sample, Patch]]:
        """Yield the same patches, each with the augmented labels that its targets are made of, to be looked at."""
        for finder, generator in self._draws():
            sample = self._sample(finder, generator)
            yield sample, self._patch(sample, finder.reader)

    def _draws(self) -> Iterator[tuple[ForegroundFinder, np.random.Generator]]:
        """Yield for each patch the finder of its volume, and its source of randomness."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        size = self.run.training.batch_size
        block = tuple(-(-edge // 2) for edge in self.run.training.patch_size)
        readers = [PairReader(pair, self.run.data) for pair in self.run.data.train]
        finders = [ForegroundFinder(reader, block=block) for reader in readers]
        shares = np.array([_share(reader) for reader in readers])
        # The loader asks its workers for a whole batch each, in turn.
        for batch in itertools.count(self.skip + first, step):
            for number in range(batch * size, (batch + 1) * size):
                generator = np.random.default_rng([self.run.training.seed, number])
                chosen = int(generator.choice(len(readers), p=shares / shares.sum()))
                yield finders[chosen], generator

    def _draw(self, finder: ForegroundFinder, generator: np.random.Generator) -> Patch:
        return self._patch(self._sample(finder, generator), finder.reader)

    def _sample(self, finder: ForegroundFinder, generator: np.random.Generator) -> Sample:
        reader = finder.reader
        box = self._choose(finder, generator)
        # Reflected at the region, not read beyond it: what lies there may be what the run is validated on.
        truth = reader.read_truth(box, within=reader.box)
        return augment(
            reader.read_image(box, within=reader.box),
            truth.labels,
            truth.annotated,
            spec=self.augmentation,
            voxel_size_nm=reader.voxel_size_nm,
            generator=generator,
        )

    def _patch(self, sample: Sample, reader: PairReader) -> Patch:
        # Labels are augmented, not targets: a flipped affinity is another one.
        targets = make_targets(
            sample.labels, task=self.run.task, voxel_size_nm=reader.voxel_size_nm, annotated=sample.annotated
        )
        return Patch(torch.from_numpy(sample.image), torch.from_numpy(targets.values), torch.from_numpy(targets.known))

    def _choose(self, finder: ForegroundFinder, generator: np.random.Generator) -> Box:
        """Return where a patch lies: anywhere or around foreground, and with as much of it as the recipe asks for."""
        recipe, reader = self.run.training, finder.reader
        for _ in range(MINIMUM_TRIES):
            box = _random_box(reader.box, recipe.patch_size, generator)
            if generator.random() < recipe.foreground_probability:
                centre = finder.find(generator)
                box = box if centre is None else _centred_box(reader.box, centre, recipe.patch_size)
            if recipe.foreground_minimum == 0:
                break
            foreground = np.count_nonzero(reader.read_label(box, within=reader.box) > 0)
            if foreground >= recipe.foreground_minimum * math.prod(recipe.patch_size):
                break
        return box


def _share(reader: PairReader) -> float:
    """Return how often a volume is drawn from, relative to the others: its weight, or its network voxels."""
    return float(reader.box.voxels) if reader.pair.weight is None else reader.pair.weight


def _random_box(region: Box, size: tuple[int, ...], generator: np.random.Generator) -> Box:
    starts = [
        int(generator.integers(first, max(last - edge, first) + 1))
        for (first, last), edge in zip(region.ranges, size, strict=True)
    ]
    return Box.of_shape(size, start=starts)


def _centred_box(region: Box, centre: tuple[int, ...], size: tuple[int, ...]) -> Box:
    starts = [
        min(max(middle - edge // 2, first), max(last - edge, first))
        for (first, last), middle, edge in zip(region.ranges, centre, size, strict=True)
    ]
    return Box.of_shape(size, start=starts)


class ValidationPatches(Dataset[Patch]):
    """Patches that cover every validation region once, with a mask of what each is to be scored on.

    Where a region is thinner than a patch, the patch reaches into the image around it: context that is not
    scored, as in the prediction of the whole volume.
    """

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self.readers = [PairReader(pair, run.data) for pair in run.data.validation]
        self.items = [
            (index, box, scored)
            for index, reader in enumerate(self.readers)
            for box, scored in grid_boxes(reader.box, run.training.patch_size, reader.whole)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Patch:
        reader_index, box, scored = self.items[index]
        reader = self.readers[reader_index]
        labels, annotated = reader.read_truth(box, within=reader.whole)
        targets = make_targets(labels, task=self.run.task, voxel_size_nm=reader.voxel_size_nm, annotated=annotated)
        mask = np.zeros(targets.known.shape, dtype=bool)
        z, y, x = scored.relative_to(box.start).slices
        mask[:, z, y, x] = targets.known[:, z, y, x]
        image = reader.read_image(box, within=reader.whole)
        return Patch(torch.from_numpy(image), torch.from_numpy(targets.values), torch.from_numpy(mask))


def training_loader(run: RunSpec, *, skip: int = 0, pin_memory: bool = False) -> DataLoader[Patch]:
    """Return the endless batches that `run` is trained on, read ahead by its `training.workers` processes.

    Args:
        run: the complete run.
        skip: batches that a resumed run has behind it.
        pin_memory: where batches are copied to a GPU, which is faster from pinned memory.
    """
    workers = run.training.workers
    return DataLoader(
        TrainingPatches(run, skip=skip),
        batch_size=run.training.batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=_start_method(run) if workers else None,
        worker_init_fn=_begin_worker,
    )


def validation_loader(run: RunSpec, *, pin_memory: bool = False) -> DataLoader[Patch] | None:
    """Return the patches that `run` is validated on, each a batch of its own, or None if it is not validated."""
    if not run.data.validation:
        return None
    patches = ValidationPatches(run)
    workers = min(run.training.workers, len(patches))
    return DataLoader(
        patches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=_start_method(run) if workers else None,
        worker_init_fn=_begin_worker,
    )


def _start_method(run: RunSpec) -> str | None:
    """Return how workers are started, None for as usual: some volumes cannot be read in forks of this process."""
    places = {place for pair in (*run.data.train, *run.data.validation) for place in pair.places}
    is_usual = multiprocessing.get_start_method() != "fork"
    if is_usual or all(survives_fork(place, root=run.data.folder) for place in places):
        return None
    multiprocessing.set_forkserver_preload([__name__])  # once, and not in each worker
    return "forkserver"


def _begin_worker(worker: int) -> None:
    """Let a worker have one thread, as torch does, and live on when its whole process group is signalled.

    The step in work needs its patches.
    """
    keep_blas_to_one_thread()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def grid_boxes(region: Box, size: tuple[int, ...], whole: Box) -> list[tuple[Box, Box]]:
    """Return patches of `size` that cover `region`, each with the part of the region that it alone is scored on."""
    axes = []
    for (first, last), edge, (_, length) in zip(region.ranges, size, whole.ranges, strict=True):
        if last - first <= edge:  # one patch, around the region's middle, inside the volume if it fits there
            start = min(max((first + last - edge) // 2, 0), max(length - edge, 0))
            axes.append([((start, start + edge), (first, last))])
            continue
        tiles = []
        for low in range(first, last, edge):
            high = min(low + edge, last)
            tiles.append(((high - edge, high), (low, high)))
        axes.append(tiles)
    return [
        (Box.of_ranges(patch for patch, _ in tiles), Box.of_ranges(scored for _, scored in tiles))
        for tiles in itertools.product(*axes)
    ]
