"""`predict`: a volume on disk through the network of a run, to another volume on disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectomics_zoo.blocks.grid import BlockGrid
from connectomics_zoo.blocks.job import Job, JobDescription, is_same, refuse_another
from connectomics_zoo.blocks.output import BlockOutput
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.turns import one_at_a_time, wait_until_begun, work_on
from connectomics_zoo.blocks.where import Where, where_from
from connectomics_zoo.network.device import AskedPrecision, Engine, Precision
from connectomics_zoo.predict.checks import DType, Output, check_turns, context_of
from connectomics_zoo.predict.job import STAGE, Prediction, prepared
from connectomics_zoo.predict.plan import windows_of_blocks
from connectomics_zoo.predict.request import References, Request, as_tuple, split_references
from connectomics_zoo.predict.spread import (
    begin_spread,
    finish_spread,
    is_spread_finished,
    outputs_of,
    refuse_lost_spread,
)
from connectomics_zoo.predict.views import plan_views
from connectomics_zoo.predict.voxels import resampled_to_nm
from connectomics_zoo.predict.work import adopt, forget
from connectomics_zoo.schema.experiment import Merge, RunSpec, Views
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.report import Report
from connectomics_zoo.volumes.box import AnyRegion, region_text
from connectomics_zoo.volumes.intensity import check_contrast
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.weights.pretrained import Frozen

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictReport(Report):
    """What was predicted, and how."""

    run: str
    """The run's folder, or the name of the weights."""
    volume: str
    """The image."""
    out: str
    """What was written: path and dataset."""
    output: Output
    """What it holds; in uint8, a probability p is stored as round(255 p), and v of a tanh as round(127.5 (v + 1))."""
    shape: tuple[int, ...]
    """(Z, Y, X), or (C, Z, Y, X) where there are several channels."""
    dtype: DType
    """Its data type."""
    voxel_size_nm: tuple[float, float, float] | None
    """Its voxel size (z, y, x), None where neither volume nor run says it."""
    resampled_to_nm: tuple[float, float, float] | None
    """Voxel size (z, y, x) that the volume was resampled to for the network, None where it was taken as it is, or as
    the run's `downsample` says."""
    window: tuple[int, ...]
    """Window in network voxels."""
    overlap: float
    """Fraction that neighbouring windows share."""
    views: Views
    """The views of each window that went through the network."""
    merge: Merge
    """How they were merged."""
    windows: int
    """Windows, each in all its views; those over the faces of blocks count in each block."""
    blocks: int
    """Blocks that the volume was predicted in."""
    resumed: int
    """Of these, the ones that were done before."""
    complete: bool
    """Whether all of them are done now; where a share of them was asked for, others may still be at work."""
    device: str
    """Where the network ran."""
    engine: Engine
    """What computed it."""
    precision: Precision
    """In which arithmetic."""
    seconds: float
    """From the first window to the finished file."""
    voxels_per_second: float
    """Voxels of the volume a second, of the blocks that were done by this call, or for it."""
    members: tuple[str, ...] = ()
    """The names of all networks, of which `run` is the first; several are an ensemble."""
    spread: str | None = None
    """Where their spread was written."""


def predict(
    run: References,
    volume: str | Path,
    out: str | Path,
    *,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    views: Views | None = None,
    merge: Merge | None = None,
    intensity_range: tuple[float, float] | None = None,
    voxel_size_nm: tuple[float, float, float] | None = None,
    device: str = "auto",
    engine: Engine = "torch",
    precision: AskedPrecision = "auto",
    batch_size: int = 1,
    output: Output = "probability",
    dtype: DType = "uint8",
    region: AnyRegion = None,
    mask: str | Path | None = None,
    multiscale: bool = False,
    spread: str | Path | None = None,
    workers: int | None = None,
    cluster: str | Path | None = None,
    scheduler: str | None = None,
    shard: str | None = None,
    overwrite: bool = False,
    frozen: Frozen = False,
    progress: Callable[[Progress], None] | None = None,
) -> PredictReport:
    """Predict `volume` with a trained network and write the result to `out`, as large as the volume.

    Voxels of another size than the network was trained on are resampled to it as they are read, and the result back.

    Windows lie on one grid over the whole volume and are blended with Gaussian weights after the activation. The
    volume is never in memory as a whole, and `out` appears complete or not at all. Until then its blocks are in the
    folder `OUT.job` beside it: whatever stops a prediction, the same call goes on and redoes one block at most.

    Args:
        run: a run folder, or trained weights that say how they were trained: `name.tag` or `hf://org/repo@revision`;
            or a list of them, an ensemble: the mean over its networks, which must have the same channels, voxels,
            window and intensities.
        volume: the image: `file.h5:dataset`, `file.tif`, a folder of sections or `volume.zarr:array`.
        out: where to write: `file.h5:dataset`, `file.tif` or `volume.zarr`.
        window: window in network voxels (z, y, x), or (y, x) for a 2-D network; by default the run's.
        overlap: fraction of a window that it shares with the next one; by default the run's.
        views: of each window: `one`, as it is; its `flips` (8, or 4 for a 2-D network); or `flips_and_turns` (twice
            as many), these turned by 90 degrees within a section as well. By default the run's.
        merge: how the views are merged, `mean` or `min`; by default the run's.
        intensity_range: grey values that become 0 and 1; by default the run's, or the range of the volume's type.
        voxel_size_nm: that of the volume (z, y, x), where its file does not say it; by default the run's.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        engine: what computes the network: `torch`, or `openvino` (an extra, for CPUs).
        precision: `float32`, `bfloat16` or `float16` (CUDA); `auto` is float32 on the CPU and the run's on CUDA.
        batch_size: windows that the network gets at a time; OpenVINO computes one after the other.
        output: every channel's value, or the labels that the task decodes them to (uint8).
        dtype: of probabilities; uint8 stores p as round(255 p), and v after tanh as round(127.5 (v + 1)).
        region: predict this part alone (`z=13:16,y=0:512`); it equals the same part of a whole prediction.
        mask: a volume of the same shape: where it is 0, nothing is predicted, and the output is 0.
        multiscale: add coarser levels, until the longest edge is at most 256 voxels; `out` must be a Zarr.
        spread: where to write how far views and networks are apart, the standard deviation over all that is merged (in
            uint8, s is stored as round(255 s)); a file or store of its own, which appears with `out`.
        workers: processes of this machine that work on the blocks, with a GPU each where there are some (Dask).
        cluster: YAML file that says how to get workers from SLURM (Dask).
        scheduler: address of the scheduler of a Dask cluster that is there.
        shard: `i/n`: work on the i-th (from 0) of n equal shares of the blocks alone, as the jobs of an array do; who
            finds that all are done finishes the output.
        overwrite: replace `out` if it exists, and an unfinished one of another job.
        frozen: use only weights that the lock file `zoo.lock` has, or that of this path.
        progress: is told how many voxels are done.

    Raises:
        UnknownNameError: `run` means nothing, or `device` is unknown.
        WeightsError: there are no such weights, they do not say how they were trained, or are replaced meanwhile.
        VolumeError: the volume cannot be read or is not what the run was trained on.
        InputSizeError: the network does not accept the window.
        SpecError: device, engine and precision do not go together, or the views do not suit task, window or voxels.
        MissingPackageError: device or engine are not here.
        OutputError: `out` cannot be written.
    """
    progress = progress or notebook_bar("predict")
    first, others = split_references(run)
    request = Request(
        run=first,
        volume=str(volume),
        out=str(out),
        window=as_tuple(window),
        overlap=overlap,
        views=views,
        merge=merge,
        intensity_range=intensity_range,
        device=device,
        engine=engine,
        precision=precision,
        batch_size=batch_size,
        output=output,
        dtype=dtype,
        region=region_text(region),
        mask=None if mask is None else str(mask),
        multiscale=multiscale,
        frozen=frozen,
        voxel_size_nm=voxel_size_nm,
        others=others,
        spread=None if spread is None else str(spread),
    )
    where = where_from(workers=workers, cluster=cluster, scheduler=scheduler, shard=shard)
    with prepared(request, elsewhere=where.is_elsewhere) as prediction:
        _warn_of_precision(prediction, where)
        if (where.shard is not None or not overwrite) and _is_left(prediction, where):
            return _report_finished(prediction, where)
        outputs = outputs_of(prediction, prediction.cut(workers=where.count), overwrite=overwrite)
        if where.is_here:
            prediction.forward()  # what cannot be computed is said before anything is made
        with work_on(outputs[0].job, where.shard):
            begin = time.perf_counter()
            outputs, description = _begin(prediction, outputs, where=where, overwrite=overwrite)
            made = outputs[0]
            work = adopt(prediction, outputs, description)
            grid = description.cut.grid
            before = made.job.done(STAGE)
            try:
                is_complete = run_blocks(made.job, STAGE, work, grid=grid, where=where, progress=progress)
                if is_complete:
                    with one_at_a_time(made.job, wait_s=math.inf):  # levels may take another share hours
                        finish_spread(prediction, outputs)
                        made.finish(prediction.stored(), where=where, progress=progress)
            except BaseException as error:
                _stopped([output.job for output in outputs], grid, error, where=where)
                raise
            finally:
                forget(work.out)
            seconds = time.perf_counter() - begin
    every = list(range(len(grid)))
    own = every if where.shard is None else where.shard.of(every)
    return _report(
        prediction, made, grid, before=before, own=set(own) - before, is_complete=is_complete, seconds=seconds
    )


def _warn_of_precision(prediction: Prediction, where: Where) -> None:
    """Say that GPUs elsewhere compute in what the CPU here would, where nothing else was asked for."""
    has_gpus = where.cluster is not None and where.cluster.gpus > 0
    if has_gpus and prediction.device.type == "cpu" and prediction.request.precision == "auto":
        _log.warning(
            "there is no GPU here, so the workers' GPUs compute in float32: give --precision bfloat16 or float16 where "
            "they should be faster"
        )


def _begin(
    prediction: Prediction, outputs: list[BlockOutput], *, where: Where, overwrite: bool
) -> tuple[list[BlockOutput], JobDescription]:
    """Go on with the job in the folder beside the output, or begin it.

    Raises:
        OutputError: the output is not possible there, or is the unfinished one of another job.
        VolumeError: the volume has no contrast.
    """
    made = outputs[0]
    if made.job.folder is None and where.shard is not None and where.shard.number > 0:
        there = wait_until_begun(made.job, lambda job: is_same(job, prediction.describe(job.cut)))
        refuse_another(there, prediction.describe(there.cut), location=made.location)
        return outputs_of(prediction, there.cut, overwrite=True), there
    with one_at_a_time(made.job):
        begun = made.job.describe()
        if begun is not None:
            asked = prediction.describe(begun.cut)
            if not overwrite or is_same(begun, asked):
                refuse_another(begun, asked, location=made.location)
                outputs = outputs_of(prediction, begun.cut, overwrite=overwrite)
                refuse_lost_spread(prediction, outputs)
                return outputs, begun
        box = prediction.geometry.box
        check_contrast(prediction.source, box, intensity_range=prediction.spec.data.intensity_range)
        made.job.clear()
        begin_spread(prediction, outputs, overwrite=overwrite)
        made.create(prediction.stored())
        description = prediction.describe(made.cut)
        made.job.begin(description)
    return outputs, description


def _stopped(jobs: list[Job], grid: BlockGrid, error: BaseException, *, where: Where) -> None:
    """Say how to go on with what was stopped, and leave nothing behind of what is not begun.

    Raises:
        KeyboardInterrupt: the job was interrupted, with what is done of it.
    """
    done = len(jobs[0].done(STAGE))
    if done == 0 and where.shard is None:
        for spread in jobs[1:]:
            spread.remove()
        jobs[0].clear()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt("stopped in the first block, so that nothing is kept.") from None
    elif isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(
            f"stopped, {done} of {len(grid)} blocks are done: repeat the command to go on."
        ) from None


def check_views(run: RunSpec) -> None:
    """Refuse a run whose predictions would have views that its task, window or voxels cannot have.

    Raises:
        SpecError: they cannot.
    """
    data, is_stated = run.data, run.data.network_voxel_size_nm is not None
    check_turns(
        run.prediction,
        voxel_size_nm=data.network_voxel_nm if is_stated else data.voxel_size_nm,
        ratios=data.downsample,
        context=context_of(run.model),
    )
    plan_views(run.prediction.views, task=run.task, axes=run.model.input.axes)


def _is_left(prediction: Prediction, where: Where) -> bool:
    """Whether all is done: by other shares, or by a process that was killed before it could remove the job's folder."""
    job = Job(split_place(prediction.request.out)[0])
    if not isinstance(job.out, Path) and where.shard is None:
        return False  # behind a URI nothing is moved, and the folder goes last
    there = job.describe()
    if there is None:
        return where.shard is not None and prediction.is_finished() and is_spread_finished(prediction)
    if not is_same(there, prediction.describe(there.cut)) or len(job.done(STAGE)) < len(there.cut.grid):
        return False  # what is there is the old output, which this one is to replace
    is_finished = prediction.is_finished() and is_spread_finished(prediction)
    return is_finished and not prediction.output(there.cut, overwrite=True).is_to_be_moved()


def _report_finished(prediction: Prediction, where: Where) -> PredictReport:
    """Return the report of what is done already."""
    made = prediction.output(prediction.cut(workers=where.count), overwrite=True)
    if where.shard is None:
        made.job.remove()
    grid = made.cut.grid
    return _report(prediction, made, grid, before=set(range(len(grid))), own=set(), is_complete=True, seconds=1e-3)


def _report(
    prediction: Prediction,
    made: BlockOutput,
    grid: BlockGrid,
    *,
    before: set[int],
    own: set[int],
    is_complete: bool,
    seconds: float,
) -> PredictReport:
    request, chosen = prediction.request, prediction.chosen
    voxels = sum(grid.box_of(index).voxels for index in own)
    return PredictReport(
        run=prediction.trained.name,
        volume=prediction.source.location,
        out=made.location,
        output=request.output,
        shape=made.shape,
        dtype=request.dtype,
        voxel_size_nm=prediction.voxel_size_nm,
        resampled_to_nm=resampled_to_nm(prediction.spec, prediction.geometry.factors),
        window=prediction.window,
        overlap=chosen.overlap,
        views=chosen.views,
        merge=chosen.merge,
        windows=windows_of_blocks(prediction.geometry, grid),
        blocks=len(grid),
        resumed=len(before),
        complete=is_complete,
        device=str(prediction.device),
        engine=request.engine,
        precision=prediction.precision,
        seconds=round(seconds, 3),
        voxels_per_second=round(voxels / seconds, 1),
        members=tuple(member.trained.name for member in prediction.members),
        spread=request.spread,
    )
