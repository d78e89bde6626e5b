"""Decodes a prediction in blocks, of which one at a time is in memory, and goes on where it was stopped.

All but the last step with all fragments (`table`) is done block by block; what is between the steps lies in the job's
folder, `OUT.job/objects`, and what is of use later is moved to `OUT.objects` at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.blocks.grid import BlockGrid, Edges
from connectomics_zoo.blocks.job import Cut, Job, JobDescription, is_same, refuse_another
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.turns import work_on
from connectomics_zoo.blocks.where import Where
from connectomics_zoo.blocks.work import Work
from connectomics_zoo.decode import flood_stages, stages
from connectomics_zoo.decode.fragments import halo
from connectomics_zoo.decode.memory import choose_edges, refuse_too_large
from connectomics_zoo.decode.object_files import ObjectFiles, chunks_of, files_place, forget_files, refuse_files
from connectomics_zoo.decode.source import Source
from connectomics_zoo.errors import OutputError, SpecError, ZooError
from connectomics_zoo.files.atomic import move_into_place
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.volumes import Box, StoredPrediction, Volume, VoxelSize, open_volume
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.prediction import this_program, to_attributes
from connectomics_zoo.volumes.uri import Place, Uri
from connectomics_zoo.volumes.writing import check_volume_place

Target = tuple[Place, str | None]
"""Path and dataset of an output."""


@dataclass(frozen=True)
class Decoded:
    """What came of it."""

    location: str
    """Path and dataset of the objects."""
    objects: int
    """How many there are."""
    blocks: int
    """How many blocks it was decoded in."""
    files: str | None
    """The folder with the fragments, their edges and the table; None where the method has none."""


@dataclass(frozen=True)
class _Writer:
    """Writes the objects of a block; it can be pickled."""

    place: Target
    cut: Cut
    dtype: str
    voxel_size_nm: VoxelSize | None
    offset: Offset
    multiscale: bool

    def __call__(self, index: int, labels: NDArray[Any]) -> None:
        box = self.cut.grid.box_of(index)
        self.output(overwrite=True).write(box, labels[np.newaxis].astype(self.dtype, copy=False))

    def output(self, *, overwrite: bool) -> BlockOutput:
        return BlockOutput(
            self.place,
            cut=self.cut,
            channels=None,
            dtype=self.dtype,
            voxel_size_nm=self.voxel_size_nm,
            offset=self.offset,
            multiscale=self.multiscale,
            overwrite=overwrite,
        )

    def anywhere(self) -> _Writer:
        """The same for processes that work in another folder."""
        return dataclasses.replace(self, place=(_absolute(self.place[0]), self.place[1]))


def _digest(document: Mapping[str, Any]) -> str:
    """Return a short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _absolute(place: Place) -> Place:
    return place.absolute() if isinstance(place, Path) else place


@dataclass(frozen=True)
class BlockDecoding:
    """A prediction that is decoded in blocks."""

    predicted: Volume
    """The prediction."""
    task: TaskSpec
    """How it is decoded."""
    box: Box
    """What of it."""
    place: Target
    """Where the objects are written."""
    dtype: str
    """Their data type."""
    offset: Offset
    """Where their first voxel lies (z, y, x), in nm, or in voxels where the voxel size is not known."""
    multiscale: bool
    """Whether coarser levels follow."""
    overwrite: bool
    """Whether they replace what is there."""
    stored: StoredPrediction
    """What they say of themselves."""

    @property
    def source(self) -> Source:
        """The prediction, as another process opens it."""
        location = self.predicted.location
        whole = location if "://" in location else str(Path(location).absolute())
        return Source(whole, self.task, self.box.start)

    def cut(self, block: Edges | None, *, parts: int) -> Cut:
        """Return the blocks: those asked for, else such that one fits into the memory.

        Raises:
            LimitError: a block does not fit.
        """
        around = self._around
        stored = self.predicted.dtype
        chosen = block or choose_edges(self.task, shape=self.box.shape, around=around, stored=stored, parts=parts)
        z, y, x = (min(edge, size) for edge, size in zip(chosen, self.box.shape, strict=True))
        pairs = zip((z, y, x), around, self.box.shape, strict=True)
        outer = tuple(min(edge + 2 * more, size) for edge, more, size in pairs)
        refuse_too_large(self.task, shape=outer, stored=stored, location=self.predicted.location)
        chunks = chunks_of((z, y, x))
        return Cut(start=self.box.start, stop=self.box.stop, block=(z, y, x), shards=(z, y, x), chunks=chunks)

    @property
    def _around(self) -> Edges:
        """How many voxels more than a block are read on every side of it."""
        return halo(self.task.decode, reach=self.source.reach)

    def describe(self, cut: Cut) -> JobDescription:
        """Return what the job is."""
        decode = self.task.decode
        task = self.task.identity(exclude={"decode"})
        identity = {
            "prediction": self.source.location,  # not relative to a folder, where another one may have its name
            "prediction's shape": list(self.predicted.shape),
            "prediction's data type": str(self.predicted.dtype),
            # Weights and settings, among others: one that was made anew has the path of the old one.
            "prediction's provenance": _digest(to_attributes(self.predicted.stored())),
            "task": f"{self.task.name} ({_digest(task)})",
            "method": decode.method,
            **decode.settings(),
            "region": str(self.box),
        }
        return JobDescription(
            schema_version=1,
            verb="decode",
            program=this_program(),
            identity=identity,
            request={},
            cut=cut,
            stages=self._stages,
        )

    @property
    def _stages(self) -> tuple[str, ...]:
        if self.task.decode.method == "watershed":
            return ("parts", "faces", "floods", "objects")
        return ("fragments", "edges", "objects")

    def is_begun(self) -> bool:
        """Whether it was begun, or another job was, and is not finished."""
        return Job(self.place[0]).describe() is not None

    def placed(self, out: str | Path) -> BlockDecoding:
        """Return the same with path and dataset of `out`, which could be created or is done already.

        Raises:
            OutputError: it could not be created.
        """
        place = check_volume_place(
            out,
            shape=self.box.shape,
            dtype=np.dtype(self.dtype),
            channels=None,
            voxel_size_nm=self.predicted.voxel_size_nm,
            multiscale=self.multiscale,
            overwrite=self.overwrite or self.is_left(),
        )
        return dataclasses.replace(self, place=place)

    def is_left(self) -> bool:
        """Whether all is done, by a process that was killed before it could remove the job's folder."""
        job = Job(self.place[0])
        if job.folder is None:
            return False  # behind a URI nothing is moved, and the folder goes last
        there = job.describe()
        if there is None or not is_same(there, self.describe(there.cut)):
            return False
        if _result(job, "table") is None or len(job.done(self._stages[-1])) < len(there.cut.grid):
            return False  # what is there is the old output, which this one is to replace
        made = self._writer(there.cut).output(overwrite=True)
        return self._is_finished(made) and not made.is_to_be_moved()

    def _is_finished(self, made: BlockOutput) -> bool:
        """Whether the output is there already, as this would make it."""
        try:
            for number, layout in enumerate(made.levels(self.stored).layouts if self.multiscale else ()):
                with open_volume(f"{made.location}#{number}") as level:
                    if level.shape != layout.shape:
                        return False
            with open_volume(made.location) as found:
                is_described = (found.shape, found.stored()) == (self.box.shape, self.stored)
                return is_described and _is_assembled(found, made)
        except ZooError:
            return False

    def run(self, *, block: Edges | None, where: Where, progress: Callable[[Progress], None] | None) -> Decoded:
        """Decode it.

        Raises:
            LimitError: a block does not fit into the memory, or a part of the foreground for the watershed.
            OutputError: the output cannot be written, or is the unfinished one of another job.
        """
        job = Job(self.place[0])
        if not self.overwrite and self.is_left():
            return self._clear_left(job)
        cut = self.cut(block, parts=1 if where.count == 1 else 4 * where.count)
        with work_on(job, None):
            writer, cut = self._begin(job, cut, block=block)
            made = writer.output(overwrite=self.overwrite)
            files = self._files(job, cut)
            try:
                objects = self._work(job, files, writer, where=where, progress=progress)
                kept = self._keep(files)
                made.finish(self.stored, where=where, progress=progress)
            except KeyboardInterrupt:
                done = {stage: len(job.done(stage)) for stage in self._stages}
                told = ", ".join(f"{count} of {len(cut.grid)} {stage}" for stage, count in done.items() if count)
                raise KeyboardInterrupt(
                    f"stopped, done in blocks: {told or 'none'}: repeat the command to go on."
                ) from None
            except ZooError:
                if not job.done(self._stages[0]):
                    job.clear()
                    files.clear()
                raise
        return Decoded(made.location, objects, len(cut.grid), None if kept is None else str(kept))

    def _work(
        self,
        job: Job,
        files: ObjectFiles,
        writer: _Writer,
        *,
        where: Where,
        progress: Callable[[Progress], None] | None,
    ) -> int:
        """Do all stages, and return how many objects there are."""
        source, decode = self.source, self.task.decode

        def each(stage: str, work: Work) -> None:
            run_blocks(job, stage, work, grid=writer.cut.grid, where=where, progress=progress, label=stage)

        if decode.method == "watershed":
            each("parts", flood_stages.PartStage(source, files))
            each("faces", flood_stages.FaceStage(files))
            _once(job, "joined", lambda: flood_stages.join_faces(files, source))
            each("floods", flood_stages.FloodStage(source, files))
            objects = _once(job, "table", lambda: flood_stages.count_floods(files, decode=decode))
            each("objects", flood_stages.ComposeStage(files, writer.anywhere()))
        else:
            each("fragments", stages.FragmentStage(source, files))
            each("edges", stages.EdgeStage(source, files))
            objects = _once(job, "table", lambda: stages.solve(files, decode=decode))
            each("objects", stages.RelabelStage(files, writer.anywhere()))
        return objects

    def _begin(self, job: Job, cut: Cut, *, block: Edges | None) -> tuple[_Writer, Cut]:
        """Go on with the job in the folder beside the output, or begin it."""
        there = job.describe()
        if there is not None:
            asked = self.describe(there.cut)
            if not self.overwrite or is_same(there, asked):
                refuse_another(there, asked, location=str(self.place[0]))
                if block is not None and cut.block != there.cut.block:
                    raise OutputError(
                        f"{self.place[0]}: is unfinished in blocks of {there.cut.block}, not of {cut.block}: leave the "
                        "block out to finish it, or begin anew with --overwrite."
                    )
                return self._writer(there.cut), there.cut
        files = self._files(job, cut)
        refuse_files(self.place[0], overwrite=self.overwrite)
        if isinstance(self._kept, Uri) and not self.overwrite and not files.is_empty():
            raise OutputError(f"{self._kept}: exists already, choose another name or overwrite it (--overwrite).")
        job.clear()
        files.clear()
        is_watershed = self.task.decode.method == "watershed"
        for name in (flood_stages.FOREGROUND, flood_stages.SEEDS) if is_watershed else (stages.FRAGMENTS,):
            files.create_array(name, voxel_size_nm=self.predicted.voxel_size_nm)
        writer = self._writer(cut)
        writer.output(overwrite=self.overwrite).create(self.stored)
        job.begin(self.describe(cut))
        return writer, cut

    def _writer(self, cut: Cut) -> _Writer:
        return _Writer(self.place, cut, self.dtype, self.predicted.voxel_size_nm, self.offset, self.multiscale)

    def _files(self, job: Job, cut: Cut) -> ObjectFiles:
        """Return the files between the stages; in an object store, where nothing can be moved, in their last place."""
        folder = self._kept if job.folder is None else job.folder / "objects"
        return ObjectFiles(_absolute(folder), BlockGrid(Box.of_shape(self.box.shape), cut.block))

    @property
    def _kept(self) -> Place:
        """Where what is of use later is kept."""
        return files_place(self.place[0])

    def _clear_left(self, job: Job) -> Decoded:
        """Remove the folder of a job of which all is done, and return what came of it."""
        there = job.describe()
        assert there is not None
        objects = _result(job, "table")
        assert objects is not None
        job.remove()
        kept = None if self.task.decode.method == "watershed" else str(self._kept)
        return Decoded(self._writer(there.cut).output(overwrite=True).location, objects, len(there.cut.grid), kept)

    def _keep(self, files: ObjectFiles) -> Place | None:
        """Let what is of use later lie beside the objects; return where it does."""
        if self.task.decode.method == "watershed":
            files.clear()
            forget_files(self.place[0])
            return None
        files.clear("fragments/")
        kept = self._kept
        if isinstance(files.folder, Path) and isinstance(kept, Path) and files.folder.exists():
            # Else it was moved before the process was killed.
            move_into_place(files.folder, kept, overwrite=self.overwrite)
        return kept


def _is_assembled(found: Volume, made: BlockOutput) -> bool:
    """Whether a volume holds what is in the array of shards, where that is still there.

    An older one may say the same of itself, and have other objects, as those of a whole volume are.
    """
    unfinished = made.job.unfinished
    if not isinstance(unfinished, Path) or not unfinished.exists():
        return True
    grid = BlockGrid(found.whole, made.cut.block)
    with open_volume(str(unfinished)) as shards:
        boxes = (grid.box_of(index) for index in range(len(grid)))
        return all(np.array_equal(found.read(box), shards.read(box)) for box in boxes)


def _once(job: Job, stage: str, work: Callable[[], int]) -> int:
    """Do what is done once for all blocks, unless it is done; return what it gives."""
    found = _result(job, stage)
    if found is None:
        found = work()
        job.mark_done(stage, 0, result=found)
    return found


def _result(job: Job, stage: str) -> int | None:
    """Return what came of what is done once for all blocks, None where it is not done."""
    found = job.read(f"done/{stage}/0")
    return None if found is None else int(json.loads(found)["result"])


def check_edges(block: Sequence[int]) -> Edges:
    """Return edges of blocks as they were asked for.

    Raises:
        SpecError: they are not possible.
    """
    if len(block) != 3 or min(block) < 1:
        raise SpecError(f"the block {tuple(block)} is not possible, give three whole numbers from 1 up (z, y, x).")
    z, y, x = block
    return z, y, x
