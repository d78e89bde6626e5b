"""`decode`: a prediction on disk to objects, to another volume on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from connectomics_zoo.decode.channels import Channels, read_channels
from connectomics_zoo.decode.memory import refuse_too_large
from connectomics_zoo.decode.methods import segment
from connectomics_zoo.decode.settings import find_task, has_boundary, with_settings
from connectomics_zoo.decode.tune import Trial, grid_of, tune
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.runs.tuned import read_tuned, write_tuned
from connectomics_zoo.schema.experiment import RunSpec
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
    check_mask,
    create_volume,
    open_volume,
)
from connectomics_zoo.volumes.alignment import aligned_box
from connectomics_zoo.volumes.label_look import LabelLook
from connectomics_zoo.volumes.location import split_place
from connectomics_zoo.volumes.placement import placement_of
from connectomics_zoo.volumes.prediction import this_program
from connectomics_zoo.volumes.truth import Truth, read_truth
from connectomics_zoo.volumes.uri import Place
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


def decode(
    prediction: str | Path,
    out: str | Path,
    *,
    task: str | Path | None = None,
    run: str | Path | None = None,
    method: str | None = None,
    changes: Mapping[str, Any] | None = None,
    tune_on: str | Path | None = None,
    ignore_labels: Sequence[int] = (),
    mask: str | Path | None = None,
    region: str | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> DecodeReport:
    """Make objects of a prediction and write their labels 1..N, uint32, to `out`, which appears complete or not at all.

    The prediction is decoded in memory, as a whole.

    Args:
        prediction: what `zoo predict` wrote, or a prediction of another program with `task` or `run`:
            `file.h5:dataset`, `file.tif` or `volume.zarr`.
        out: where to write: `file.h5:dataset`, `file.tif` or `volume.zarr`.
        task: the task that it was predicted for; by default the one that the file says.
        run: the run folder that it was predicted with; its `decode.yaml` has the settings, if it was tuned.
        method: `components`, `watershed`, `mutex` or `agglomeration`; by default the task's.
        changes: fields of the method (`threshold`, `min_size`, …), instead of the run's or the task's.
        tune_on: the truth; settings are tried on it, the best are used, and written to `decode.yaml` of the run. Of a
            mask, the connected components are the objects where the task relabels (`labels.relabel`).
        ignore_labels: voxels with these labels in the truth count for no setting, as those with the `data.unlabelled`
            of the run do.
        mask: a volume as large as the truth that is 0 where the truth is not annotated; those voxels count for no
            setting. By default that of the run, where the truth is a label volume of its.
        region: use this part alone (`z=13:16,y=0:512`); `out` is as large as it. It is a part of the truth where there
            is one, and the prediction may be as large as that part, or says where it lies; without one, it is a part of
            the volume that the prediction is of.
        overwrite: replace `out` if it exists.
        progress: is told how many settings have been tried.

    Raises:
        VolumeError: a volume cannot be read, or does not fit its use.
        SpecError: the task is not decoded to objects, a setting is not possible, or options contradict each other.
        CheckFailedError: no setting that was tried finds an object.
        UnknownNameError: there is no such task, run or setting.
        LimitError: it does not fit into the memory; nothing was read.
        OutputError: `out` cannot be written.
        MissingPackageError: the library of the method is not installed.
    """
    progress = progress or notebook_bar("decode")
    _check_options(task=task, run=run, tune_on=tune_on, ignore_labels=ignore_labels, mask=mask)
    spec = None if run is None else get_run(run)
    if mask is None and tune_on is not None and spec is not None:
        mask = _mask_of(spec, tune_on)
    with open_volume(prediction) as predicted:
        for source in (predicted.location, *(str(place) for place in (tune_on, mask) if place is not None)):
            refuse_own_input(source, out)
        _refuse_labels(predicted)
        base = find_task(predicted, task=task, run=spec)
        tuned = None if run is None else read_tuned(Path(run))
        saved = None if tuned is None else tuned.decode
        chosen = with_settings(base, saved=saved, method=method, changes=changes or {})
        box, placement, truth_of = _parts(predicted, tune_on, mask, region, ignored=_ignored(ignore_labels, spec))
        refuse_too_large(chosen, shape=box.shape, stored=predicted.dtype, location=predicted.location)
        create = _creator(out, box, voxel_size_nm=predicted.voxel_size_nm, overwrite=overwrite)
        create().discard()  # what cannot be written is refused before anything is read
        channels = read_channels(read_prediction(predicted, box, task=chosen), task=chosen)
        best, trials = chosen.decode, list[Trial]()
        if truth_of is not None:
            best, trials = _tune(
                channels,
                truth_of(),
                task=chosen,
                ignored=_ignored(ignore_labels, spec),
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
    )


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


def _creator(
    out: str | Path, box: Box, *, voxel_size_nm: VoxelSize | None, overwrite: bool
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
        overwrite=overwrite,
    )


def _ignored(labels: Sequence[int], run: RunSpec | None) -> list[int]:
    """Return the labels that count for no setting: those asked for, and the run's for what is not annotated."""
    unlabelled = None if run is None else run.data.unlabelled
    return [*labels, *(() if unlabelled is None else (unlabelled,))]


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
        raise VolumeError(f"{mask}: is 0 in all of this part, so nothing can be tuned: give another one.")
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


def _mask_of(run: RunSpec, truth: str | Path) -> str | None:
    """Return the mask that the run has for the label volume `truth`, None where it has none.

    Raises:
        SpecError: it has several.
    """
    root = run.data.folder
    wanted = _file_of(truth)
    pairs = (*run.data.validation, *run.data.train) if wanted is not None else ()
    masks = {pair.mask for pair in pairs if _file_of(pair.label, root=root) == wanted}
    if len(masks) > 1:
        named = ", ".join(sorted(mask or "none" for mask in masks))
        raise SpecError(f"the run {run.name} has several masks for {truth} ({named}): give the one that is meant.")
    mask = next(iter(masks), None)
    if mask is None:
        return None
    with open_volume(mask, root=root) as volume:
        return volume.location


def _file_of(place: str | Path, *, root: Path | None = None) -> tuple[Place, str | None] | None:
    """Return file or URI and dataset of a volume, None where it cannot be opened."""
    try:
        with open_volume(place, root=root) as volume:
            where, dataset = split_place(volume.location)
    except VolumeError:
        return None
    return (where.resolve() if isinstance(where, Path) else where), dataset


def _parts(
    predicted: Volume,
    tune_on: str | Path | None,
    mask: str | Path | None,
    region: str | None,
    *,
    ignored: Sequence[int],
) -> tuple[Box, Placement | None, Callable[[], Truth] | None]:
    """Return the part of the prediction that is decoded, where that lies, and what reads its truth, if any."""
    lies = predicted.placement
    if tune_on is None:
        shape = predicted.shape if lies is None else lies.whole_shape
        whole = predicted.location if lies is None else f"the volume that {predicted.location} is of"
        box, first = aligned_box(predicted, shape=shape, region=region, truth=whole)
        return box.relative_to(first), placement_of(box, whole_shape=shape), None
    with open_volume(tune_on) as true, nullcontext() if mask is None else open_volume(mask) as known:
        true_box, first = aligned_box(predicted, shape=true.shape, region=region, truth=true.location)
        if true.channels not in (None, 1) or true.dtype.kind == "f":
            raise VolumeError(
                f"{true.location}: holds {true.dtype}{'' if true.channels is None else ' in channels'}, a truth is one "
                "volume of whole numbers, a label for each object: give that."
            )
        if known is not None:
            check_mask(true, known, kind="truth")
    box = true_box.relative_to(first)
    if lies is None:
        placement = placement_of(true_box, whole_shape=true.shape)
    else:
        placement = Placement(box.moved(lies.box.start), lies.whole_shape)
    return box, placement, lambda: _read_truth(true, known, true_box, ignored=ignored)


def _read_truth(true: Volume, known: Volume | None, box: Box, *, ignored: Sequence[int]) -> Truth:
    """Return the truth, and say what is hardly meant in it."""
    look = LabelLook(ignored)
    look.add(true.read_plain(box), None if known is None else known.read_plain(box) != 0)
    look.refuse_unclear(true.dtype, location=true.location)
    if look.grey is None:  # which the tuning refuses
        for problem in look.warnings(true.dtype):
            _log.warning("%s %s.", true.location, problem)
    return read_truth(true, known, box, unlabelled=None, ignored=ignored)


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
