"""`predict`: a volume on disk through the network of a run, to another volume on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.decoding import decode, decoded_channels
from connectomics_zoo.errors import InputSizeError, OutputError, SpecError, VolumeError
from connectomics_zoo.intensity import scale_intensity
from connectomics_zoo.predict import plan
from connectomics_zoo.predict.network import choose_device, choose_precision, make_forward
from connectomics_zoo.predict.plan import Geometry, Span, make_geometry
from connectomics_zoo.predict.slide import Forward, predict_column
from connectomics_zoo.regions import box_shape, region_box
from connectomics_zoo.registry import get_run, validate
from connectomics_zoo.schema.experiment import PredictionSpec, Region, RunSpec
from connectomics_zoo.volumes import Content, Volume, WritableVolume, create_volume, open_volume
from connectomics_zoo.volumes.location import split_location

VOXEL_SIZE_TOLERANCE = 0.1
"""Fraction by which a volume's voxels may differ from those that the network was trained on."""

Output = Literal["probability", "label"]
DType = Literal["uint8", "float16", "float32"]

Progress = Callable[[int, int], None]
"""Is told the voxels done so far, and all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictReport:
    """What was predicted, and how."""

    run: str
    """The run's folder."""
    volume: str
    """The image."""
    out: str
    """What was written: path and dataset."""
    output: Output
    """What it holds; a probability p is stored as round(255 p) in uint8."""
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
    windows: int
    """Windows that went through the network."""
    columns: int
    """Parts that the volume was predicted in to stay in memory."""
    device: str
    """Where the network ran."""
    precision: str
    """In which arithmetic."""
    seconds: float
    """From the first window to the finished file."""
    voxels_per_second: float
    """Voxels of the volume a second."""


def predict(
    run: str | Path,
    volume: str | Path,
    out: str | Path,
    *,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    device: str = "auto",
    batch_size: int = 1,
    output: Output = "probability",
    dtype: DType = "uint8",
    region: Region | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PredictReport:
    """Predict `volume` with the network of a run and write the result to `out`, as large as the volume.

    Windows lie on one grid over the whole volume and are blended with Gaussian weights after the activation. The
    volume is never in memory as a whole, and `out` appears complete or not at all.

    Args:
        run: the run's folder.
        volume: the image: `file.h5:dataset`, `file.tif`, a folder of sections or `volume.zarr:array`.
        out: where to write: `file.h5:dataset`, `file.tif` or `volume.zarr`.
        window: window in network voxels (z, y, x), or (y, x) for a 2-D network; by default the run's.
        overlap: fraction of a window that it shares with the next one; by default the run's.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        batch_size: windows that the network gets at a time.
        output: every channel's value, or the labels that the task decodes them to (uint8).
        dtype: of probabilities; uint8 stores p as round(255 p).
        region: predict this part alone (`z=13:16,y=0:512`); it equals the same part of a whole prediction.
        overwrite: replace `out` if it exists.
        progress: is told the voxels done so far, and all.

    Raises:
        UnknownNameError: `run` is no run folder, or `device` unknown.
        VolumeError: the volume cannot be read or is not what the run was trained on.
        InputSizeError: the network does not accept the window.
        OutputError: `out` cannot be written.
    """
    spec = get_run(run)
    prediction = _prediction(spec, window=window, overlap=overlap)
    _check_request(spec, batch_size=batch_size, output=output, dtype=dtype)
    with open_volume(volume) as source:
        _check_volume(source, spec)
        _refuse_own_input(source, out)
        geometry = _geometry(source, spec, prediction, region)
        where = choose_device(device)
        precision = choose_precision(spec, where)
        forward = make_forward(run, spec, device=where, precision=precision)
        begin = time.perf_counter()
        with _create_output(
            out, source=source, spec=spec, geometry=geometry, output=output, dtype=dtype, overwrite=overwrite
        ) as target:
            windows, columns = _predict_columns(
                source,
                target,
                forward,
                spec=spec,
                geometry=geometry,
                batch_size=batch_size,
                output=output,
                progress=progress,
            )
        seconds = time.perf_counter() - begin
        assert prediction.window is not None
        return PredictReport(
            run=str(run),
            volume=source.location,
            out=target.location,
            output=output,
            shape=target.shape if target.channels is None else (target.channels, *target.shape),
            dtype=dtype,
            voxel_size_nm=target.voxel_size_nm,
            window=prediction.window,
            overlap=prediction.overlap,
            windows=windows,
            columns=columns,
            device=str(where),
            precision=precision,
            seconds=round(seconds, 3),
            voxels_per_second=round(int(np.prod(target.shape)) / seconds, 1),
        )


def _geometry(source: Volume, spec: RunSpec, prediction: PredictionSpec, region: Region | str | None) -> Geometry:
    assert prediction.window is not None
    # A 2-D network looks at one section at a time.
    z, y, x = (1, *prediction.window)[-3:]
    return make_geometry(
        shape=source.shape,
        factors=spec.data.downsample,
        window=(z, y, x),
        overlap=prediction.overlap,
        box=region_box(region, shape=source.shape),
    )


def _create_output(
    out: str | Path,
    *,
    source: Volume,
    spec: RunSpec,
    geometry: Geometry,
    output: Output,
    dtype: DType,
    overwrite: bool,
) -> WritableVolume:
    channels = decoded_channels(spec.task) if output == "label" else len(spec.task.channels)
    voxel_size_nm = source.voxel_size_nm
    if voxel_size_nm is None and spec.data.voxel_size_nm is not None:
        voxel_size_nm = spec.data.voxel_size_nm
        _log.warning("%s does not say its voxel size, took the run's, %s nm", source.location, _lengths(voxel_size_nm))
    # Without an activation the values are no probabilities.
    is_probability = all(channel.activation != "none" for channel in spec.task.channels)
    content: Content | None = "label" if output == "label" else "probability" if is_probability else None
    is_tiff = Path(out).suffix.lower() in (".tif", ".tiff")
    return create_volume(
        out,
        shape=box_shape(geometry.box),
        dtype=dtype,
        channels=None if channels == 1 else channels,
        voxel_size_nm=voxel_size_nm,
        content=content,
        chunks=None if is_tiff else plan.chunk_shape(geometry),
        overwrite=overwrite,
    )


def _predict_columns(
    source: Volume,
    target: WritableVolume,
    forward: Forward,
    *,
    spec: RunSpec,
    geometry: Geometry,
    batch_size: int,
    output: Output,
    progress: Progress | None,
) -> tuple[int, int]:
    """Predict and write every column; return the numbers of windows and columns."""
    channels_in, channels_out = spec.model.input.channels, len(spec.task.channels)
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
            progress(voxels * done // total, voxels)

    def scale(array: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return scale_intensity(array, dtype=source.dtype, intensity_range=spec.data.intensity_range)
        except VolumeError as error:
            raise VolumeError(f"{source.location}: {error}") from None

    for column in columns:
        for box, values in predict_column(
            source,
            forward,
            geometry=geometry,
            planes=planes,
            column=column,
            scale=scale,
            channels_in=channels_in,
            channels_out=channels_out,
            batch_size=batch_size,
            advance=advance,
        ):
            block = decode(values, task=spec.task) if output == "label" else _stored(values, dtype=target.dtype)
            z, y, x = (
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(box, geometry.box, strict=True)
            )
            target.write((z, y, x), block[0] if target.channels is None else block)
    return total, len(columns)


def _windows_over(geometry: Geometry, column: tuple[Span, Span]) -> int:
    """Return how many windows of one plane a column needs."""
    counts = [
        len(geometry.grids[axis].touching(*geometry.network_span(axis, span)))
        for axis, span in zip((1, 2), column, strict=True)
    ]
    return counts[0] * counts[1]


def _stored(values: NDArray[np.float32], *, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return probabilities as they are stored: p as round(255 p) in uint8."""
    if dtype == np.uint8:
        scaled: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
        return scaled
    return values.astype(dtype, copy=False)


def _prediction(spec: RunSpec, *, window: Sequence[int] | None, overlap: float | None) -> PredictionSpec:
    """Return the run's way to predict with what was asked for instead, checked."""
    pinned = spec.prediction.window or spec.training.patch_size
    chosen = validate(
        PredictionSpec,
        {
            "window": list(window) if window is not None else list(pinned),
            "overlap": spec.prediction.overlap if overlap is None else overlap,
        },
        source="prediction",
    )
    assert chosen.window is not None
    rule = spec.model.input.size
    if len(chosen.window) != len(rule.minimum):
        raise InputSizeError(
            f"the window {list(chosen.window)} has {len(chosen.window)} axes, {spec.model.name} has "
            f"{', '.join(spec.model.input.axes)}: give {len(rule.minimum)} numbers."
        )
    if not rule.allows(chosen.window):
        raise InputSizeError(
            f"{spec.model.name} does not accept the window {list(chosen.window)}, legal are {rule.describe()} voxels: "
            f"give {list(rule.round_up(chosen.window))}."
        )
    if chosen.window != pinned:
        _log.warning("window %s instead of the run's %s: the predictions will differ", chosen.window, pinned)
    return chosen


def _check_request(spec: RunSpec, *, batch_size: int, output: Output, dtype: DType) -> None:
    for name, value, known in (("output", output, get_args(Output)), ("dtype", dtype, get_args(DType))):
        if value not in known:
            raise SpecError(f"{name} {value!r} is not known, give {' or '.join(known)}.")
    if batch_size < 1:
        raise SpecError(f"batch_size {batch_size} is not possible, give 1 or more.")
    if output == "label":
        if dtype != "uint8":
            raise OutputError(f"labels are uint8, not {dtype}: leave dtype out, or predict probabilities.")
        return
    unbounded = [channel.name for channel in spec.task.channels if channel.activation == "none"]
    if unbounded and dtype == "uint8":
        raise OutputError(
            f"the channel {unbounded[0]!r} has no activation, its values need not lie in 0..1 and cannot be stored as "
            "uint8: give dtype float16 or float32."
        )


def _check_volume(source: Volume, spec: RunSpec) -> None:
    channels = 1 if source.channels is None else source.channels
    if channels != spec.model.input.channels:
        raise VolumeError(
            f"{source.location}: has {channels} channel(s), and {spec.name} was trained on "
            f"{spec.model.input.channels}: give a volume with as many."
        )
    here, trained = source.voxel_size_nm, spec.data.voxel_size_nm
    if here is None or trained is None:
        return
    if any(abs(one / other - 1) > VOXEL_SIZE_TOLERANCE for one, other in zip(here, trained, strict=True)):
        raise VolumeError(
            f"{source.location}: has voxels of {_lengths(here)} nm (z, y, x), and {spec.name} was trained on "
            f"{_lengths(trained)} nm: resample the volume, or correct its voxel size if that is wrong."
        )


def _lengths(voxel_size_nm: tuple[float, float, float]) -> str:
    return " x ".join(f"{length:g}" for length in voxel_size_nm)


def _refuse_own_input(source: Volume, out: str | Path) -> None:
    image = split_location(source.location)[0]
    path = split_location(str(out))[0]
    if path.exists() and path.samefile(image):
        raise OutputError(f"{out}: is the image itself, which would be lost: choose another name.")
