"""`predict`: a volume on disk through the network of a run, to another volume on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.network.device import AskedPrecision, Engine, Precision, choose_device, prediction_precision
from connectomics_zoo.predict import plan
from connectomics_zoo.predict.checks import (
    DType,
    Output,
    check_request,
    check_turns,
    check_volume,
    prediction_spec,
    with_intensity_range,
)
from connectomics_zoo.predict.network import make_forward
from connectomics_zoo.predict.plan import Geometry, make_geometry
from connectomics_zoo.predict.slide import Finished, Forward, predict_column
from connectomics_zoo.predict.stored import make_provenance, make_stored
from connectomics_zoo.predict.views import View, plan_views
from connectomics_zoo.schema.experiment import Merge, PredictionSpec, RunSpec, Views
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.schema.provenance import Provenance
from connectomics_zoo.schema.report import Report
from connectomics_zoo.tasks.voxelwise import decode_voxels, decoded_channels
from connectomics_zoo.volumes import Volume, WritableVolume, create_volume, open_volume
from connectomics_zoo.volumes.box import AnyRegion, Box, region_box
from connectomics_zoo.volumes.intensity import check_contrast, scale_intensity
from connectomics_zoo.volumes.placement import placement_of
from connectomics_zoo.volumes.values import store_values
from connectomics_zoo.volumes.voxel_size import lengths
from connectomics_zoo.volumes.writing import refuse_own_input
from connectomics_zoo.weights.pretrained import Frozen, Pretrained, digested, find_run

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
    window: tuple[int, ...]
    """Window in network voxels."""
    overlap: float
    """Fraction that neighbouring windows share."""
    views: Views
    """The views of each window that went through the network."""
    merge: Merge
    """How they were merged."""
    windows: int
    """Windows, each in all its views."""
    columns: int
    """Parts that the volume was predicted in to stay in memory."""
    device: str
    """Where the network ran."""
    engine: Engine
    """What computed it."""
    precision: Precision
    """In which arithmetic."""
    seconds: float
    """From the first window to the finished file."""
    voxels_per_second: float
    """Voxels of the volume a second."""


@dataclass(frozen=True)
class _Job:
    """What is predicted of which part, how it is computed and how it is written; checked."""

    trained: Pretrained
    spec: RunSpec
    chosen: PredictionSpec
    geometry: Geometry
    device: torch.device
    engine: Engine
    precision: Precision
    output: Output
    dtype: DType
    batch_size: int

    @property
    def window(self) -> tuple[int, ...]:
        """The window, in network voxels."""
        assert self.chosen.window is not None
        return self.chosen.window


def predict(
    run: str | Path,
    volume: str | Path,
    out: str | Path,
    *,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    views: Views | None = None,
    merge: Merge | None = None,
    intensity_range: tuple[float, float] | None = None,
    device: str = "auto",
    engine: Engine = "torch",
    precision: AskedPrecision = "auto",
    batch_size: int = 1,
    output: Output = "probability",
    dtype: DType = "uint8",
    region: AnyRegion = None,
    overwrite: bool = False,
    frozen: Frozen = False,
    progress: Callable[[Progress], None] | None = None,
) -> PredictReport:
    """Predict `volume` with a trained network and write the result to `out`, as large as the volume.

    Windows lie on one grid over the whole volume and are blended with Gaussian weights after the activation. The
    volume is never in memory as a whole, and `out` appears complete or not at all.

    Args:
        run: a run folder, or trained weights that say how they were trained: `name.tag` or `hf://org/repo@revision`.
        volume: the image: `file.h5:dataset`, `file.tif`, a folder of sections or `volume.zarr:array`.
        out: where to write: `file.h5:dataset`, `file.tif` or `volume.zarr`.
        window: window in network voxels (z, y, x), or (y, x) for a 2-D network; by default the run's.
        overlap: fraction of a window that it shares with the next one; by default the run's.
        views: of each window: `one`, as it is; its `flips` (8, or 4 for a 2-D network); or `flips_and_turns` (twice
            as many), these turned by 90 degrees within a section as well. By default the run's.
        merge: how the views are merged, `mean` or `min`; by default the run's.
        intensity_range: grey values that become 0 and 1; by default the run's, or the range of the volume's type.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        engine: what computes the network: `torch`, or `openvino` (an extra, for CPUs).
        precision: `float32`, `bfloat16` or `float16` (CUDA); `auto` is float32 on the CPU and the run's on CUDA.
        batch_size: windows that the network gets at a time; OpenVINO computes one after the other.
        output: every channel's value, or the labels that the task decodes them to (uint8).
        dtype: of probabilities; uint8 stores p as round(255 p), and v after tanh as round(127.5 (v + 1)).
        region: predict this part alone (`z=13:16,y=0:512`); it equals the same part of a whole prediction.
        overwrite: replace `out` if it exists.
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
    spec, trained = find_run(run, frozen=frozen)
    spec = with_intensity_range(spec, intensity_range)
    chosen = prediction_spec(spec, window=window, overlap=overlap, views=views, merge=merge)
    check_request(spec, batch_size=batch_size, output=output, dtype=dtype, engine=engine, precision=precision)
    seen = plan_views(chosen.views, task=spec.task, axes=spec.model.input.axes)
    with open_volume(volume) as source:
        check_volume(source, spec)
        check_turns(spec, chosen, voxel_size_nm=source.voxel_size_nm or spec.data.voxel_size_nm)
        refuse_own_input(source.location, out)
        where = choose_device(device, engine=engine)
        used = prediction_precision(precision, run=spec, device=where)
        job = _Job(
            trained,
            spec,
            chosen,
            _geometry(source, spec, chosen=chosen, region=region),
            device=where,
            engine=engine,
            precision=used,
            output=output,
            dtype=dtype,
            batch_size=batch_size,
        )
        check_contrast(source, job.geometry.box, intensity_range=spec.data.intensity_range)
        with digested(trained) as read:
            forward = _forward(job, views=seen)
        made = make_provenance(read, spec, chosen=chosen, precision=used, output=output)
        begin = time.perf_counter()
        with _create_output(out, job, source=source, made=made, overwrite=overwrite) as target:
            windows, columns = _predict_columns(job, source, target, forward=forward, progress=progress)
        seconds = time.perf_counter() - begin
    return _report(job, source, target, windows=windows, columns=columns, seconds=seconds)


def check_views(run: RunSpec) -> None:
    """Refuse a run whose predictions would have views that its task, window or voxels cannot have.

    Raises:
        SpecError: they cannot.
    """
    check_turns(run, run.prediction, voxel_size_nm=run.data.voxel_size_nm)
    plan_views(run.prediction.views, task=run.task, axes=run.model.input.axes)


def _geometry(source: Volume, spec: RunSpec, *, chosen: PredictionSpec, region: AnyRegion) -> Geometry:
    assert chosen.window is not None
    # A 2-D network looks at one section at a time.
    z, y, x = (1, *chosen.window)[-3:]
    return make_geometry(
        shape=source.shape,
        factors=spec.data.downsample,
        window=(z, y, x),
        overlap=chosen.overlap,
        box=region_box(region, shape=source.shape, location=source.location),
    )


def _forward(job: _Job, *, views: tuple[View, ...]) -> Forward:
    return make_forward(
        job.trained,
        job.spec,
        window=job.window,
        views=views,
        merge=job.chosen.merge,
        engine=job.engine,
        device=job.device,
        precision=job.precision,
    )


def _create_output(out: str | Path, job: _Job, *, source: Volume, made: Provenance, overwrite: bool) -> WritableVolume:
    task, trained = job.spec.task, job.spec.data.voxel_size_nm
    channels = decoded_channels(task) if job.output == "label" else len(task.channels)
    voxel_size_nm = source.voxel_size_nm
    if voxel_size_nm is None and trained is not None:
        voxel_size_nm = trained
        _log.warning("%s does not say its voxel size, took the run's, %s nm", source.location, lengths(trained))
    is_tiff = Path(out).suffix.lower() in (".tif", ".tiff")
    placement = placement_of(job.geometry.box, whole_shape=source.shape)
    return create_volume(
        out,
        shape=job.geometry.box.shape,
        dtype=job.dtype,
        channels=None if channels == 1 else channels,
        voxel_size_nm=voxel_size_nm,
        stored=make_stored(job.spec, output=job.output, dtype=job.dtype, placement=placement, provenance=made),
        chunks=None if is_tiff else plan.chunk_shape(job.geometry),
        overwrite=overwrite,
    )


def _predict_columns(
    job: _Job, source: Volume, target: WritableVolume, *, forward: Forward, progress: Callable[[Progress], None] | None
) -> tuple[int, int]:
    """Predict and write every column; return the numbers of windows and columns."""
    geometry = job.geometry
    channels_in, channels_out = job.spec.model.input.channels, len(job.spec.task.channels)
    planes = plan.plan_planes(geometry, chunk=plan.chunk_shape(geometry)[0])
    columns = plan.split_columns(
        geometry,
        rows=plan.rows_in_memory(geometry, planes),
        channels_in=channels_in,
        channels_out=channels_out,
        budget=plan.MEMORY_BUDGET,
    )
    total = len(planes) * sum(_windows_over(geometry, column) for column in columns)
    voxels = int(np.prod(target.shape))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(Progress(voxels * done // total, voxels, unit="voxels"))

    advance(0)
    for column in columns:
        for finished in predict_column(
            source,
            forward,
            geometry=geometry,
            planes=planes,
            column=column,
            scale=_scale(source, job.spec),
            channels_in=channels_in,
            channels_out=channels_out,
            batch_size=job.batch_size,
            advance=advance,
        ):
            _write(target, finished, job=job)
            del finished  # not kept while the network runs
    return total, len(columns)


def _report(
    job: _Job, source: Volume, target: WritableVolume, *, windows: int, columns: int, seconds: float
) -> PredictReport:
    return PredictReport(
        run=job.trained.name,
        volume=source.location,
        out=target.location,
        output=job.output,
        shape=target.shape if target.channels is None else (target.channels, *target.shape),
        dtype=job.dtype,
        voxel_size_nm=target.voxel_size_nm,
        window=job.window,
        overlap=job.chosen.overlap,
        views=job.chosen.views,
        merge=job.chosen.merge,
        windows=windows,
        columns=columns,
        device=str(job.device),
        engine=job.engine,
        precision=job.precision,
        seconds=round(seconds, 3),
        voxels_per_second=round(int(np.prod(target.shape)) / seconds, 1),
    )


def _scale(source: Volume, spec: RunSpec) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return the function from the volume's grey values to 0..1."""

    def scale(array: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return scale_intensity(array, dtype=source.dtype, intensity_range=spec.data.intensity_range)
        except VolumeError as error:
            raise VolumeError(f"{source.location}: {error}") from None

    return scale


def _block(values: NDArray[np.float32], *, job: _Job) -> NDArray[Any]:
    """Return channel values (C, Z, Y, X) as they are written."""
    if job.output == "label":
        return decode_voxels(values, task=job.spec.task)
    return store_values(values, task=job.spec.task, dtype=np.dtype(job.dtype))


def _write(target: WritableVolume, finished: Finished, *, job: _Job) -> None:
    box, values = finished
    block = _block(values, job=job)
    target.write(box.relative_to(job.geometry.box.start), block[0] if target.channels is None else block)


def _windows_over(geometry: Geometry, column: Box) -> int:
    """Return how many windows of one plane a column needs."""
    ranges = geometry.network_box(column).ranges
    rows, columns = (len(geometry.grids[axis].touching(*ranges[axis])) for axis in (1, 2))
    return rows * columns
