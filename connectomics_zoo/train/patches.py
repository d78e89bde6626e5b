"""Patches of image and targets for training (random, augmented) and validation (a grid), read from volumes on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from connectomics_zoo.schema.augmentation import augmentation_of
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.targets import Targets, make_targets
from connectomics_zoo.train.annotated import AnnotatedBlocks, find_annotated
from connectomics_zoo.train.augment import Sample, augment
from connectomics_zoo.train.balance import class_search
from connectomics_zoo.train.rescaling import rescaled_patch
from connectomics_zoo.train.sampling import ForegroundFinder, choose_patch, grid_boxes, share_of
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.pair_reader import PairReader
from connectomics_zoo.volumes.truth import Truth


class Patch(NamedTuple):
    """What a data loader stacks into a batch."""

    image: Tensor
    """(C, Z, Y, X), intensities scaled to 0..1."""
    targets: Tensor
    """(C, Z, Y, X); smaller than the image where the network has a context: without it."""
    mask: Tensor
    """(C, Z, Y, X), True where the target is known and, in validation, where this patch is the one that is scored."""


def targets_of(reader: PairReader, truth: Truth, *, task: TaskSpec) -> Targets:
    """Return the targets of what a reader has read, in its network voxels."""
    return make_targets(
        truth.labels,
        task=task,
        voxel_size_nm=reader.voxel_size_nm,
        annotated=truth.annotated,
        volumes=tuple(reader.labels),
        classes=reader.pair.annotated,
    )


def trained_edges(run: RunSpec) -> tuple[int, ...]:
    """Return the edges (z, y, x) of what a patch is trained on: all of it but the context that its network needs."""
    return run.model.input.given(run.training.patch_size)


def _trained(values: NDArray[Any], run: RunSpec) -> NDArray[Any]:
    """Return that part of values (…, Z, Y, X) of a patch."""
    if run.model.input.context is None:
        return values
    inner: tuple[Any, ...] = (..., *run.model.input.inner)
    return np.ascontiguousarray(values[inner])


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
        self._annotated: list[AnnotatedBlocks | None] | None = None

    def look_for_annotation(self) -> None:
        """Find the annotated blocks of every volume now, for all workers, instead of in each of them."""
        readers = [PairReader(pair, self.run.data) for pair in self.run.data.train]
        self._annotated = self._find_annotated(readers)
        for reader in readers:
            reader.close()

    def _find_annotated(self, readers: list[PairReader]) -> list[AnnotatedBlocks | None]:
        return [find_annotated(reader, block=self._block) for reader in readers]

    @property
    def _block(self) -> tuple[int, ...]:
        """Edges (z, y, x) of the blocks in which foreground is looked for."""
        return tuple(-(-edge // 2) for edge in trained_edges(self.run))

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
        readers = [PairReader(pair, self.run.data) for pair in self.run.data.train]
        blocks = self._find_annotated(readers) if self._annotated is None else self._annotated
        finders = [
            ForegroundFinder(reader, block=self._block, annotated=annotated, classes=class_search(reader, run=self.run))
            for reader, annotated in zip(readers, blocks, strict=True)
        ]
        shares = np.array([share_of(finder) for finder in finders])
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
        # Reflected at the region, not read beyond it: what lies there may be what the run is validated on.
        box, truth = choose_patch(finder, self.run.training, generator, size=trained_edges(self.run))
        other = rescaled_patch(reader, box, spec=self.augmentation, generator=generator)
        if other is not None:
            seen = other[0].read_truth(other[1], within=other[0].box)
            if seen.anywhere.any() or not truth.anywhere.any():  # what little is annotated may lie outside of it
                (reader, box), truth = other, seen
        context = self.run.model.input.context
        if context is not None:
            box = box.widened(context)
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
        targets = targets_of(reader, Truth(sample.labels, sample.annotated), task=self.run.task)
        values, known = (torch.from_numpy(_trained(part, self.run)) for part in targets)
        return Patch(torch.from_numpy(sample.image), values, known)


class ValidationPatches(Dataset[Patch]):
    """Patches that cover every validation region once, with a mask of what each is to be scored on.

    Where few voxels are annotated, there is no patch that would score nothing.

    Where a region is thinner than a patch, the patch reaches into the image around it: context that is not
    scored, as in the prediction of the whole volume.
    """

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self.readers = [PairReader(pair, run.data) for pair in run.data.validation]
        self.items = [
            (index, box, scored)
            for index, reader in enumerate(self.readers)
            for part in reader.parts
            for box, scored in grid_boxes(part, trained_edges(run), reader.whole)
            if _is_annotated(reader, scored)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Patch:
        reader_index, given, scored = self.items[index]
        reader = self.readers[reader_index]
        box = given.widened(self.run.model.input.margins)
        targets = targets_of(reader, reader.read_truth(box, within=reader.whole), task=self.run.task)
        mask = np.zeros(targets.known.shape, dtype=bool)
        z, y, x = scored.relative_to(box.start).slices
        mask[:, z, y, x] = targets.known[:, z, y, x]
        image = reader.read_image(box, within=reader.whole)
        values, mask = (_trained(part, self.run) for part in (targets.values, mask))
        return Patch(torch.from_numpy(image), torch.from_numpy(values), torch.from_numpy(mask))


def _is_annotated(reader: PairReader, box: Box) -> bool:
    """Whether something in `box` is annotated, which is looked at where it may not be."""
    if reader.mask is None and reader.data.unlabelled is None:
        return True
    return bool(reader.read_truth(box, within=reader.whole).annotated.any())
