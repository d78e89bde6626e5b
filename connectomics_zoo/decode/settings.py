"""Which task a prediction is for, and how it is decoded: the task's way, a run's tuned one, and what is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import SpecError, UnknownNameError, VolumeError, nearest
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.task import DECODE_FIELDS, DECODE_STARTS, OBJECT_METHODS, DecodeSpec, TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.meaning import channels_meaning
from connectomics_zoo.volumes import Volume
from connectomics_zoo.volumes.prediction import refuse_spread

_log = logging.getLogger(__name__)


def find_task(predicted: Volume, *, task: str | Path | None, run: RunSpec | None) -> TaskSpec:
    """Return the task that a prediction is for: the one asked for, else that of the run, else that in the file.

    Raises:
        SpecError: a spec does not follow its schema, or the run's affinities are not those of the volume's voxels.
        VolumeError: nothing says the task, or the file says one with other channels.
        UnknownNameError: there is no such task.
    """
    if run is not None and run.task.affinities is not None and max(run.data.downsample) > 1:
        raise SpecError(
            f"the run {run.name} has data.downsample {list(run.data.downsample)}, so the offsets of its affinities are "
            "in network voxels and not in those of the prediction: train it without, on volumes that are downsampled "
            "beforehand."
        )
    asked = get_task(task) if task is not None else run.task if run is not None else None
    stored = predicted.stored()
    refuse_spread(stored, location=predicted.location)
    carried = stored.task
    if asked is not None and carried is not None and channels_meaning(asked) != channels_meaning(carried):
        raise VolumeError(
            f"{predicted.location}: says that it was predicted for the task {carried.name}, whose channels are not "
            f"those of {asked.name}: leave --task and --run out, or give the right one."
        )
    own = None if carried is None or not carried.decode.is_instances else carried.decode
    if task is not None and asked is not None and own is not None and own != asked.decode:
        _log.warning(
            "%s: carries settings of its own, which are left aside: %s %s; leave --task out to use them.",
            predicted.location,
            own.method,
            " ".join(f"{name}={value}" for name, value in own.settings().items()),
        )
    found = asked or carried
    if found is None:
        raise VolumeError(
            f"{predicted.location}: does not say for which task it was predicted: give --task NAME or --run FOLDER."
        )
    return found


def with_settings(
    task: TaskSpec, *, saved: DecodeSpec | None, method: str | None, overrides: Mapping[str, Any]
) -> TaskSpec:
    """Return the task with the settings that it is decoded with.

    Args:
        task: says how it is decoded by default.
        saved: what tuning found, instead of the task's; it says nothing about another method than its own.
        method: another method; its thresholds, and fields that the task does not have, are those of `DECODE_STARTS`.
        overrides: fields of `DecodeSpec`.

    Raises:
        SpecError: the method makes no objects, or not of these channels, or a value is not allowed.
        UnknownNameError: a field is unknown.
    """
    base = saved if saved is not None and method in (None, saved.method) else task.decode
    chosen = base.method if method is None else method
    if chosen not in OBJECT_METHODS:
        reason = f"the task {task.name} is decoded voxel by voxel" if method is None else f"method {method!r} is none"
        raise SpecError(
            f"{reason}, and objects are made by {', '.join(OBJECT_METHODS)}: give --method with one of them"
            + (", or predict with --output label." if method is None else ".")
        )
    own = DECODE_FIELDS[chosen]
    for key in overrides:
        if key not in own:
            raise UnknownNameError(f"unknown setting {key} of {chosen}: {nearest(key, own)}")
    given = base.model_dump(mode="json", exclude_none=True)
    # A threshold means something else to another method; what is too small stays too small.
    kept = own if chosen == base.method else [name for name in own if "threshold" not in name]
    fields = {name: given[name] if name in kept and name in given else DECODE_STARTS[name] for name in own}
    if "boundary_threshold" in own and not has_boundary(task):
        if overrides.get("boundary_threshold", 1) != 1:
            raise SpecError(f"boundary_threshold has no effect: the task {task.name} has no boundary, leave it out.")
        fields["boundary_threshold"] = 1.0
    document = {**task.model_dump(mode="json", exclude_none=True), "decode": {"method": chosen, **fields, **overrides}}
    return validate(TaskSpec, document, source=f"decoding for {task.name}")


def has_boundary(task: TaskSpec) -> bool:
    """Whether a channel of the task shows boundaries."""
    return any(channel.target.kind == "boundary" for channel in task.channels)
