"""What a prediction refuses before it begins, each in one sentence."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from connectomics_zoo.errors import InputSizeError, OutputError, SpecError, VolumeError
from connectomics_zoo.network.device import AskedPrecision, Engine
from connectomics_zoo.schema.experiment import Merge, PredictionSpec, RunSpec, Views
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.volumes import Volume, VoxelSize
from connectomics_zoo.volumes.ratios import Ratios
from connectomics_zoo.volumes.voxel_size import TRAINED_TOLERANCE

Output = Literal["probability", "label"]
DType = Literal["uint8", "float16", "float32"]

_log = logging.getLogger(__name__)


def prediction_spec(
    spec: RunSpec,
    *,
    window: Sequence[int] | None,
    overlap: float | None,
    views: Views | None,
    merge: Merge | None,
) -> PredictionSpec:
    """Return the run's way to predict, with what was asked for instead; the window is always stated.

    Raises:
        SpecError: the overlap or the views are not possible.
        InputSizeError: the network does not accept the window.
    """
    asked = {
        "window": list(spec.window if window is None else window),
        "overlap": overlap,
        "views": views,
        "merge": merge,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    chosen = validate(PredictionSpec, spec.prediction.model_dump(mode="json") | changes, source="prediction")
    if merge is not None and chosen.views == "one":
        raise SpecError(f"merge {merge} has no effect with views one, leave it out or give views flips.")
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
    if chosen.window != spec.window:
        _log.warning("window %s instead of the run's %s: the predictions will differ", chosen.window, spec.window)
    return chosen


def check_request(
    spec: RunSpec, *, batch_size: int, output: Output, dtype: DType, engine: Engine, precision: AskedPrecision
) -> None:
    """Refuse a choice that there is not, and an output that the data type does not hold.

    Raises:
        SpecError: a value is unknown or not possible.
        OutputError: the data type does not hold the output.
    """
    for name, value, known in (
        ("output", output, get_args(Output)),
        ("dtype", dtype, get_args(DType)),
        ("engine", engine, get_args(Engine)),
        ("precision", precision, get_args(AskedPrecision)),
    ):
        if value not in known:
            raise SpecError(f"{name} {value!r} is not known, give {' or '.join(known)}.")
    if batch_size < 1:
        raise SpecError(f"batch_size {batch_size} is not possible, give 1 or more.")
    if output == "label":
        if spec.task.decode.is_instances:
            raise OutputError(
                f"the task {spec.task.name} makes objects (by {spec.task.decode.method}), which need the whole "
                "prediction: predict probabilities and run `zoo decode` on them."
            )
        if dtype != "uint8":
            raise OutputError(f"labels are uint8, not {dtype}: leave dtype out, or predict probabilities.")
        return
    unbounded = [channel.name for channel in spec.task.channels if channel.activation == "none"]
    if unbounded and dtype == "uint8":
        raise OutputError(
            f"the channel {unbounded[0]!r} has no activation, its values need not lie in 0..1 and cannot be stored as "
            "uint8: give dtype float16 or float32."
        )


def check_volume(source: Volume, spec: RunSpec) -> None:
    """Refuse a volume that is not what the run was trained on.

    Raises:
        VolumeError: its channels differ.
    """
    channels = 1 if source.channels is None else source.channels
    if channels != spec.model.input.channels:
        raise VolumeError(
            f"{source.location}: has {channels} channel(s), and {spec.name} was trained on "
            f"{spec.model.input.channels}: give a volume with as many."
        )
    if source.dtype.kind in "iu" and source.dtype.itemsize > 1 and spec.data.intensity_range is None:
        # Microscopes fill a part of such a type: 12 of 16 bits, or 8.
        _log.warning(
            "%s holds %s, of which the whole range is taken, %d to %d: --intensity-range LOW,HIGH says which grey "
            "values are meant",
            source.location,
            source.dtype,
            np.iinfo(source.dtype).min,
            np.iinfo(source.dtype).max,
        )


def with_intensity_range(spec: RunSpec, intensity_range: tuple[float, float] | None) -> RunSpec:
    """Return the run with other grey values for 0 and 1; None leaves it as it is.

    Raises:
        SpecError: the range is empty or not finite.
    """
    if intensity_range is None:
        return spec
    low, high = intensity_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SpecError(f"the intensity range {low:g},{high:g} is empty, give low,high with low < high.")
    return spec.model_copy(update={"data": spec.data.model_copy(update={"intensity_range": (low, high)})})


def context_of(model: ModelSpec) -> tuple[int, int, int]:
    """Return the network voxels (z, y, x) around a window that a network sees and says nothing of."""
    # A 2-D network looks at one section at a time.
    z, y, x = (0, *model.input.margins)[-3:]
    return z, y, x


def check_turns(
    chosen: PredictionSpec, *, voxel_size_nm: VoxelSize | None, ratios: Ratios, context: tuple[int, int, int]
) -> None:
    """Refuse views that are turned where a turned window would be another window, or show other voxels.

    Args:
        chosen: window and views.
        voxel_size_nm: of the volume; where it is unknown, its voxels are taken to be as high as wide.
        ratios: volume voxels per network voxel (z, y, x).
        context: of the network (`context_of`).

    Raises:
        SpecError: windows are not square within a section, or the network's voxels are not.
    """
    if chosen.views != "flips_and_turns":
        return
    assert chosen.window is not None
    y, x = chosen.window[-2:]
    if y != x:
        raise SpecError(
            f"views flips_and_turns need a window as high as wide, and {list(chosen.window)} is not: give such a "
            "window, or views flips."
        )
    if context[1] != context[2]:
        raise SpecError(
            f"views flips_and_turns need a network whose context is the same along y and x, and it is {list(context)} "
            "(z, y, x): give views flips."
        )
    _, height, width = voxel_size_nm or (1.0, 1.0, 1.0)
    height, width = height * float(ratios[1]), width * float(ratios[2])
    if abs(height / width - 1) > TRAINED_TOLERANCE:
        raise SpecError(
            "views flips_and_turns need voxels as high as wide, and the network's are "
            f"{height:g} x {width:g} nm (y, x): give views flips."
        )
