"""`decode`: a prediction on disk to objects, to another volume on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.blocks.where import where_from
from connectomics_zoo.decode.blockwise import BlockDecoding, check_edges
from connectomics_zoo.decode.channels import Channels, read_channels
from connectomics_zoo.decode.memory import fits, refuse_too_large
from connectomics_zoo.decode.methods import segment
from connectomics_zoo.decode.object_files import forget_files, refuse_files
from connectomics_zoo.decode.parts import find_parts, ignored_labels, mask_of
from connectomics_zoo.decode.settings import find_task, has_boundary, with_settings
from connectomics_zoo.decode.stated import refuse_label_bytes
from connectomics_zoo.decode.tune import Trial, grid_of, tune
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.runs.tuned import read_tuned, write_tuned
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.provenance import Decoding, Provenance
from connectomics_zoo.schema.report import Report
from connectomics_zoo.schema.task import DecodeSpec, TaskSpec
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.tasks.targets.labels import true_objects
from connectomics_zoo.volumes import (
    Box,
    Placement,
    StoredPrediction,
    Volume,
    VoxelSize,
    WritableVolume,
    create_volume,
    open_volume,
)
from connectomics_zoo.volumes.box import AnyRegion, region_text
from connectomics_zoo.volumes.levels import Offset
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.placement import offset_of_part
from connectomics_zoo.volumes.prediction import this_program
from connectomics_zoo.volumes.truth import Truth
from connectomics_zoo.volumes.values import read_prediction
from connectomics_zoo.volumes.writing import refuse_own_input

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeReport(Report):
    """What was decoded, and how."""

    prediction: str
    """The prediction."""
    out: str
    """What was written: path and dataset."""
    task: str
    """The task's name."""
    method: str
    """How objects were made."""
    settings: dict[str, Any]
    """The fields of the method."""
    shape: tuple[int, int, int]
    """(Z, Y, X)."""
    dtype: str
    """Data type of the labels."""
    objects: int
    """Objects; their labels are 1 to this."""
    voxel_size_nm: tuple[float, float, float] | None
    """Its voxel size (z, y, x), None where the prediction does not say it."""
    seconds: float
    """From the channels to the objects, without reading, tuning and writing."""
    trials: tuple[Trial, ...]
    """What was tried, where it was tuned."""
    mask: str | None
    """The mask of what is annotated in the truth that it was tuned on."""
    saved: str | None
    """Where the best settings were written, None where they were not."""
    blocks: int
    """Blocks that it was decoded in; 1 where it was in memory as a whole."""
    files: str | None
    """The folder with the fragments of the blocks, their edges, and the table of objects, where there are some."""


def decode(
    prediction: str | Path,
    out: str | Path,
    *,
    task: str | Path | None = None,
    run: str | Path | None = None,
    method: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    tune_on: str | Path | None = None,
    ignore_labels: Sequence[int] = (),
    mask: str | Path | None = None,
    region: AnyRegion = None,
    block: Sequence[int] | None = None,
    multiscale: bool = False,
    workers: int | None = None,
    cluster: str | Path | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> DecodeReport:
    """Make objects of a prediction and write their labels 1..N, uint32, to `out`, which appears complete or not at all.

    A prediction that fits into the memory is decoded as a whole, unless blocks or other processes are asked for. Of a
    larger one, a block at a time is in memory, and all fragments and edges that decide over blocks once: 50 bytes a
    fragment and up to 400 an edge. `components` and `watershed` give the same objects in blocks, `mutex` and
    `agglomeration` nearly the same. Until it is finished, what is done of it is in the folder `OUT.job` beside it:
    whatever stops it, the same call goes on, and redoes the blocks in work. The fragments, their edges and the table of
    objects stay in `OUT.objects` (see `decode.object_files`), except of `watershed`, which has none.

    Args:
        prediction: what `zoo predict` wrote, or a prediction of another program with `task` or `run`:
            `file.h5:dataset`, `file.tif` or `volume.zarr`.
        out: where to write: `file.h5:dataset`, `file.tif` or `volume.zarr`.
        task: the task that it was predicted for; by default the one that the file says.
        run: the run folder that it was predicted with; its `decode.yaml` has the settings, if it was tuned.
        method: `components`, `watershed`, `mutex` or `agglomeration`; by default the task's.
        overrides: fields of the method (`threshold`, `min_size`, …), instead of the run's or the task's.
        tune_on: the truth; settings are tried on it, the best are used, and written to `decode.yaml` of the run. Of a
            mask, the connected components are the objects where the task relabels (`labels.relabel`).
        ignore_labels: voxels with these labels in the truth count for no setting, as those with the `data.unlabelled`
            of the run do.
        mask: a volume as large as the truth that is 0 where the truth is not annotated; those voxels count for no
            setting. By default that of the run, where the truth is a label volume of its.
        region: use this part alone (`z=13:16,y=0:512`); `out` is as large as it. It is a part of the truth where there
            is one, and the prediction may be as large as that part, or says where it lies; without one, it is a part of
            the volume that the prediction is of.
        block: decode in blocks of these edges (z, y, x); by default, where it has to be, in such that fit.
        multiscale: add coarser levels, until the longest edge is at most 256 voxels; `out` must be a Zarr.
        workers: processes of this machine that work on the blocks (Dask).
        cluster: YAML file that says how to get workers from SLURM (Dask).
        scheduler: address of the scheduler of a Dask cluster that is there.
        overwrite: replace `out` if it exists, and an unfinished one of another job.
        progress: is told how many settings have been tried, or how many voxels of a stage are done.

    Raises:
        VolumeError: a volume cannot be read, or does not fit its use.
        SpecError: the task is not decoded to objects, a setting is not possible, or options contradict each other.
        CheckFailedError: no setting that was tried finds an object.
        UnknownNameError: there is no such task, run or setting.
        LimitError: a block does not fit into the memory, or what settings are tuned on; or a connected part of the
            foreground, which a watershed has to flood at once.
        OutputError: `out` cannot be written.
        MissingPackageError: the library of the method is not installed.
    """
    progress, region = progress or notebook_bar("decode"), region_text(region)
    _check_options(task=task, run=run, tune_on=tune_on, ignore_labels=ignore_labels, mask=mask)
    where = where_from(workers=workers, cluster=cluster, scheduler=scheduler)
    edges = None if block is None else check_edges(block)
    is_asked = edges is not None or not where.is_here
    if is_asked and tune_on is not None:
        raise SpecError(
            "settings are tuned in memory, without block, workers, cluster and scheduler: tune on a part (region) with "
            "a run, and decode with that run then."
        )
    spec = None if run is None else get_run(run)
    if mask is None and tune_on is not None and spec is not None:
        mask = mask_of(spec, tune_on)
    with open_volume(prediction) as predicted:
        for source in (predicted.location, *(str(place) for place in (tune_on, mask) if place is not None)):
            refuse_own_input(source, out)
        _refuse_labels(predicted)
        base = find_task(predicted, task=task, run=spec)
        tuned = None if run is None else read_tuned(Path(run))
        saved = None if tuned is None else tuned.decode
        chosen = with_settings(base, saved=saved, method=method, overrides=overrides or {})
        ignored = ignored_labels(ignore_labels, spec)
        box, placement, truth_of = find_parts(predicted, tune_on, mask, region, ignored=ignored, run=spec)
        if "threshold" not in (overrides or {}):
            refuse_label_bytes(predicted, box)
        offset = _offset(predicted, box, placement)
        blockwise = None
        if truth_of is None:
            blockwise = _in_blocks(
                predicted,
                chosen,
                box,
                out,
                asked=is_asked,
                offset=offset,
                multiscale=multiscale,
                overwrite=overwrite,
                stored=_stored(predicted, chosen.name, chosen.decode, placement),
            )
        if blockwise is not None:
            begin = time.perf_counter()
            made = blockwise.run(block=edges, where=where, progress=progress)
            return DecodeReport(
                prediction=predicted.location,
                out=made.location,
                task=chosen.name,
                method=chosen.decode.method,
                settings=chosen.decode.settings(),
                shape=box.shape,
                dtype=blockwise.dtype,
                objects=made.objects,
                voxel_size_nm=predicted.voxel_size_nm,
                seconds=round(time.perf_counter() - begin, 3),
                trials=(),
                mask=None,
                saved=None,
                blocks=made.blocks,
                files=made.files,
            )
        refuse_too_large(chosen, shape=box.shape, stored=predicted.dtype, location=predicted.location, what="whole")
        create = _creator(
            out,
            box,
            voxel_size_nm=predicted.voxel_size_nm,
            offset=offset,
            multiscale=multiscale,
            overwrite=overwrite,
        )
        create().discard()  # what cannot be written is refused before anything is read
        refuse_files(split_place(str(out))[0], overwrite=overwrite)
        channels = read_channels(read_prediction(predicted, box, task=chosen), task=chosen)
        best, trials = chosen.decode, list[Trial]()
        if truth_of is not None:
            best, trials = _tune(
                channels,
                truth_of(),
                task=chosen,
                ignored=ignored,
                location=str(tune_on),
                mask=mask,
                progress=progress,
            )
        # What the volume says of its decoding is known only now.
        with create(stored=_stored(predicted, chosen.name, best, placement)) as target:
            begin = time.perf_counter()
            labels = segment(channels, decode=best)
            seconds = time.perf_counter() - begin
            target.write(target.whole, labels)
        forget_files(split_place(str(out))[0])
        file = None
        if trials and run is not None:
            file = _save(best, trials, run=run, prediction=predicted, truth=str(tune_on), region=region)
    return DecodeReport(
        prediction=predicted.location,
        out=target.location,
        task=chosen.name,
        method=best.method,
        settings=best.settings(),
        shape=box.shape,
        dtype=str(target.dtype),
        objects=int(labels.max()),
        voxel_size_nm=target.voxel_size_nm,
        seconds=round(seconds, 3),
        trials=tuple(trials),
        mask=None if mask is None else str(mask),
        saved=None if file is None else str(file),
        blocks=1,
        files=None,
    )


def _in_blocks(
    predicted: Volume,
    task: TaskSpec,
    box: Box,
    out: str | Path,
    *,
    asked: bool,
    offset: Offset,
    multiscale: bool,
    overwrite: bool,
    stored: StoredPrediction,
) -> BlockDecoding | None:
    """Return how it is decoded in blocks, None where it is decoded as a whole.

    That is where it fits into the memory, nobody asked for blocks, it was not begun in them, and is written to a disk.
    """
    dtype = "uint32" if box.voxels < 2**32 else "uint64"
    place = split_place(str(out))
    blockwise = BlockDecoding(predicted, task, box, place, dtype, offset, multiscale, overwrite, stored).placed(out)
    is_local = isinstance(place[0], Path)
    if asked or not is_local or blockwise.is_begun() or not fits(task, shape=box.shape, stored=predicted.dtype):
        return blockwise
    return None


def _check_options(
    *,
    task: str | Path | None,
    run: str | Path | None,
    tune_on: str | Path | None,
    ignore_labels: Sequence[int],
    mask: str | Path | None,
) -> None:
    """Refuse options that contradict each other, or would have no effect."""
    if task is not None and run is not None:
        raise SpecError("task and run are both given, and a run has its task: leave one out.")
    if ignore_labels and tune_on is None:
        raise SpecError("ignore_labels have no effect without a truth to tune on, leave them out.")
    if mask is not None and tune_on is None:
        raise SpecError("the mask has no effect without a truth to tune on, leave it out.")


def _refuse_labels(predicted: Volume) -> None:
    if predicted.content in ("label", "instances"):
        raise VolumeError(
            f"{predicted.location}: holds labels, as the file says, and objects are made of probabilities: decode "
            "a prediction that was made without --output label."
        )


def _offset(predicted: Volume, box: Box, placement: Placement | None) -> Offset:
    """Return where the part `box` of a prediction lies: as this says, else in the volume that it is of."""
    if predicted.offset_nm is not None and predicted.voxel_size_nm is not None:
        first = box.start
    else:
        first = (0, 0, 0) if placement is None else placement.box.start
    return offset_of_part(first, voxel_size_nm=predicted.voxel_size_nm, whole_offset_nm=predicted.offset_nm)


def _creator(
    out: str | Path, box: Box, *, voxel_size_nm: VoxelSize | None, offset: Offset, multiscale: bool, overwrite: bool
) -> Callable[..., WritableVolume]:
    """Return `create_volume` for the objects in `box`; what they say of themselves (`stored`) is still to be given."""
    return partial(
        create_volume,
        out,
        shape=box.shape,
        # Objects cannot be more than voxels.
        dtype=np.uint32 if box.voxels < 2**32 else np.uint64,
        channels=None,
        voxel_size_nm=voxel_size_nm,
        offset=offset,
        multiscale=multiscale,
        overwrite=overwrite,
    )


def _tune(
    channels: Channels,
    truth: Truth,
    *,
    task: TaskSpec,
    ignored: Sequence[int],
    location: str,
    mask: str | Path | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[DecodeSpec, list[Trial]]:
    """Return the best settings around the task's, and how each did."""
    if not truth.annotated.any():
        what = f"{location}: is not annotated in any" if mask is None else f"{mask}: is 0 in all"
        raise VolumeError(f"{what} of this part, so nothing can be tuned: give another one.")
    objects, ignored = true_objects(truth.labels, spec=task.labels, ignored=ignored)
    return tune(
        channels,
        objects,
        truth.annotated,
        candidates=grid_of(task.decode, has_boundary=has_boundary(task)),
        ignored=ignored,
        location=location,
        progress=progress,
    )


def _stored(predicted: Volume, task: str, decode: DecodeSpec, placement: Placement | None) -> StoredPrediction:
    """Return what the objects say of themselves: how the prediction came to be, and how they were made of it."""
    made = predicted.stored().provenance or Provenance()
    decoding = Decoding(task=task, decode=decode, program=this_program())
    return StoredPrediction("instances", placement=placement, provenance=made.model_copy(update={"decoding": decoding}))


def _save(
    best: DecodeSpec, trials: list[Trial], *, run: str | Path, prediction: Volume, truth: str, region: str | None
) -> Path:
    """Write the best settings into the run folder."""
    trial = next(trial for trial in trials if trial.settings == best.settings())
    tuned = TunedDecoding(
        schema_version=1,
        kind="decode",
        decode=best,
        adapted_rand_error=round(min(1.0, max(0.0, trial.adapted_rand_error)), 6),
        voi=round(max(0.0, trial.voi), 6),
        prediction=prediction.location,
        truth=truth,
        region=region,
    )
    return write_tuned(tuned, Path(run))
