"""Predicts a block of a job, in the process that started it or in any other."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.job import Job, JobDescription
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.blocks.work import Advance
from connectomics_zoo.errors import WorkerRefusedError
from connectomics_zoo.predict.ahead import Behind
from connectomics_zoo.predict.job import Prediction, prepared
from connectomics_zoo.predict.plan import count_windows
from connectomics_zoo.predict.request import Request
from connectomics_zoo.predict.slide import predict_block
from connectomics_zoo.predict.spread import outputs_of, values_to_store
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.prediction import this_program

_open: dict[str, tuple[Prediction, list[BlockOutput], JobDescription]] = {}
"""By the output of its job, what this process has opened for it."""


@dataclass(frozen=True)
class PredictBlock:
    """Predicts blocks of the job whose output is at `out`; what it needs is opened once in a process."""

    out: str

    def __call__(self, index: int, advance: Advance) -> None:
        """Predict a block and write it.

        Raises:
            ZooError: the volume is damaged there, the output cannot be written, or this process is not as the one that
                has begun the job.
        """
        prediction, outputs, description = self._opened()
        box = description.cut.grid.box_of(index)
        if prediction.mask is not None and not prediction.mask.read(box).any():
            return
        geometry = replace(prediction.geometry, box=box)
        total = count_windows(geometry, box)
        done = 0

        def advance_windows(count: int) -> None:
            nonlocal done
            done += count
            advance(done / total)

        slabs = _Slabs(prediction, outputs, box, depth=description.cut.shards[0])
        with Behind(slabs.write) as writer:
            for finished in predict_block(
                prediction.source,
                prediction.forward(),
                geometry=geometry,
                chunk=description.cut.chunks[0],
                scale=prediction.scaled,
                channels_in=prediction.channels_in,
                channels_out=prediction.channels_out,
                batch_size=prediction.request.batch_size,
                advance=advance_windows,
                mask=prediction.mask,
            ):
                for slab in slabs.add(finished.box, finished.values):
                    writer.put(slab)
                del finished  # not kept while the network runs

    def _opened(self) -> tuple[Prediction, list[BlockOutput], JobDescription]:
        job = Job(split_place(self.out)[0])
        description = job.describe()
        if description is None:
            raise WorkerRefusedError(f"{job.place}: the folder of the job is not there, is it on a shared disk?")
        # A worker that outlives a job may have opened what an earlier one at the same place was told.
        if self.out not in _open or _open[self.out][2].token != description.token:
            stack = ExitStack()
            atexit.register(stack.close)
            prediction = stack.enter_context(prepared(Request.of(description.request), quiet=True))
            refuse_other_work(prediction, description)
            adopt(prediction, outputs_of(prediction, description.cut, overwrite=True), description)
        return _open[self.out]


def adopt(prediction: Prediction, outputs: list[BlockOutput], description: JobDescription) -> PredictBlock:
    """Let this process use what it has opened already for its blocks, and return the work on them."""
    out = description.request["out"]
    _open[out] = (prediction, outputs, description)
    return PredictBlock(out)


def forget(out: str) -> None:
    """Let go of what was opened for a job."""
    _open.pop(out, None)


def refuse_other_work(prediction: Prediction, description: JobDescription) -> None:
    """Refuse to take part in a job that was begun by another program or with other weights.

    Raises:
        WorkerRefusedError: it was.
    """
    if this_program() != description.program:
        raise WorkerRefusedError(
            f"{description.request['out']}: the job was begun by {description.program}, and this worker has "
            f"{this_program()}: give all the same environment."
        )
    begun = [description.identity["weights"], *description.identity.get("weights of others", [])]
    for (_, trained), there in zip(prediction.members, begun, strict=True):
        here = trained.sha256()
        if here != there:
            raise WorkerRefusedError(
                f"{description.request['out']}: the job was begun with weights of sha256 {there[:12]}…, and this "
                f"worker finds {here[:12]}… at {trained.source}: give all the same file."
            )


class _Slabs:
    """Collects what is finished of a block until whole rows of shards are."""

    def __init__(self, prediction: Prediction, outputs: list[BlockOutput], box: Box, *, depth: int) -> None:
        self._prediction = prediction
        self._outputs = outputs
        self._box = box
        self._depth = depth
        self._begun: dict[int, _Slab] = {}

    def add(self, box: Box, values: NDArray[np.float32]) -> list[_Slab]:
        """Take finished values, and return the slabs that are complete with them."""
        complete = []
        base = self._box.start[0]
        for number in range((box.start[0] - base) // self._depth, (box.stop[0] - 1 - base) // self._depth + 1):
            slab = self._begun.get(number) or self._begin(number)
            part = box.intersection(slab.box)
            z, y, x = part.relative_to(box.start).slices
            mask = self._prediction.mask
            parts = values_to_store(self._prediction, values[:, z, y, x])
            z, y, x = part.relative_to(slab.box.start).slices
            for array, stored in zip(slab.arrays, parts, strict=True):
                if mask is not None:  # 0 as it is stored, which blocks that are left out hold, too
                    stored[:, mask.read_plain(part) == 0] = 0
                array[:, z, y, x] = stored
            slab.missing -= part.voxels
            if slab.missing == 0:
                complete.append(self._begun.pop(number))
        return complete

    def _begin(self, number: int) -> _Slab:
        first = self._box.start[0] + number * self._depth
        box = self._box.replace(z=(first, min(first + self._depth, self._box.stop[0])))
        shape = (self._prediction.channels or 1, *box.shape)
        arrays = [np.empty(shape, dtype=self._prediction.request.dtype) for _ in self._outputs]
        slab = _Slab(box, arrays, box.voxels)
        self._begun[number] = slab
        return slab

    def write(self, slab: _Slab) -> None:
        """Write a complete slab."""
        for output, array in zip(self._outputs, slab.arrays, strict=True):
            output.write(slab.box, array)


@dataclass
class _Slab:
    """A row of shards."""

    box: Box
    arrays: list[NDArray[Any]]
    """Of each output."""
    missing: int
    """Voxels that are not finished."""
