"""From a patch of labels to the targets of every channel of a task, and where these are known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectomics_zoo.errors import SpecError, VolumeError, nearest
from connectomics_zoo.schema.target import CONTINUOUS_TARGETS
from connectomics_zoo.schema.task import ChannelSpec, TaskSpec
from connectomics_zoo.tasks.affinities import affinity_channels, compute_affinities, convention_of
from connectomics_zoo.tasks.targets.annotated import annotated_known
from connectomics_zoo.tasks.targets.distance import edge_distances
from connectomics_zoo.tasks.targets.labels import face_axes, find_faces, is_one_of, prepare_labels
from connectomics_zoo.tasks.targets.shape_descriptors import shape_descriptors


class Targets(NamedTuple):
    """What a network should predict for a patch."""

    values: NDArray[np.float32]
    """(C, Z, Y, X)."""
    known: NDArray[np.bool_]
    """(C, Z, Y, X), False where there is no telling: not annotated, or decided outside of the patch."""


def make_targets(
    labels: NDArray[Any],
    *,
    task: TaskSpec,
    voxel_size_nm: tuple[float, ...] | None,
    annotated: NDArray[np.bool_] | None = None,
    volumes: Sequence[str | None] = (None,),
    classes: Collection[str] | None = None,
) -> Targets:
    """Return the targets of the task's channels.

    Args:
        labels: label volume (Z, Y, X), or several (V, Z, Y, X).
        task: the task.
        voxel_size_nm: edge lengths (z, y, x) of the labels' voxels, None where unknown; decides whether
            boundaries are looked for across sections.
        annotated: of the same shape, False where the label is not known and must not matter; None where all are.
        volumes: the names of the label volumes, None for one alone; of one that is missing, nothing is known.
        classes: the channels that are annotated, None for all; of the others nothing is known but what follows from a
            softmax (`annotated_known`).

    Raises:
        VolumeError: a `value` target outside 0..1.
        SpecError: the voxel size is unknown, and the task needs it; volumes or classes that the task does not have.
    """
    check_voxel_size(task, voxel_size_nm)
    if annotated is None:
        annotated = np.ones(labels.shape, dtype=bool)
    if labels.ndim == 3:
        labels, annotated = labels[np.newaxis], annotated[np.newaxis]
    _check_names(task, count=len(labels), volumes=volumes, classes=classes)
    values = np.zeros((len(task.channels), *labels.shape[1:]), dtype=np.float32)
    known = np.zeros(values.shape, dtype=bool)
    foreign = np.zeros(values.shape[1:], dtype=bool)
    for name, volume, is_known in zip(volumes, labels, annotated, strict=True):
        indices = [index for index, channel in enumerate(task.channels) if channel.target.volume == name]
        if not indices:
            continue
        part = task.model_copy(update={"channels": tuple(task.channels[index] for index in indices)})
        values[indices], known[indices] = _make_of_one(volume, is_known, task=part, voxel_size_nm=voxel_size_nm)
        if any(index in task.softmax for index in indices):
            foreign = volume != 0
    return Targets(values, annotated_known(values, known, task=task, classes=classes, is_object=foreign))


def _check_names(task: TaskSpec, *, count: int, volumes: Sequence[str | None], classes: Collection[str] | None) -> None:
    """Refuse label volumes and classes of which nothing would be known without a word."""
    if len(volumes) != count:
        raise SpecError(f"{len(volumes)} label volumes are named ({_listed(volumes)}), and {count} given: name each.")
    needed = {channel.target.volume for channel in task.channels}
    if needed and needed.isdisjoint(volumes):
        raise SpecError(
            f"the task {task.name!r} makes its targets of {_listed(sorted(map(str, needed)))}, and the label volumes "
            f"are {_listed(volumes)}: stack them as (V, Z, Y, X) and name them by volumes."
            if None not in needed
            else f"the task {task.name!r} has one label volume without a name: leave out volumes={_listed(volumes)}."
        )
    names = [channel.name for channel in task.channels]
    for name in classes or ():
        if name not in names:
            raise SpecError(f"the task {task.name!r} has no class {name!r}: {nearest(name, names)}")


def _listed(names: Sequence[str | None]) -> str:
    return ", ".join("one without a name" if name is None else repr(name) for name in names)


def _make_of_one(
    labels: NDArray[Any], annotated: NDArray[np.bool_], *, task: TaskSpec, voxel_size_nm: tuple[float, ...] | None
) -> Targets:
    """Return the targets of channels that are all made of one label volume."""
    labels = prepare_labels(labels, annotated, spec=task.labels, axes=face_axes(voxel_size_nm))
    values = np.empty((len(task.channels), *labels.shape), dtype=np.float32)
    known = np.repeat(annotated[np.newaxis], len(task.channels), axis=0)
    affinities = affinity_channels(task)
    if affinities:
        values[list(affinities)], known[list(affinities)] = compute_affinities(
            labels, convention_of(task), annotated=annotated
        )
    for sigma_nm in {channel.target.sigma_nm for channel in task.channels if channel.target.kind == "lsd"}:
        assert sigma_nm is not None
        assert voxel_size_nm is not None
        _describe_shapes(labels, values, known, task=task, sigma_nm=sigma_nm, voxel_size_nm=voxel_size_nm)
    for index, channel in enumerate(task.channels):
        if channel.target.kind not in ("affinity", "lsd"):
            values[index], known[index] = _make_channel(labels, annotated, channel, voxel_size_nm=voxel_size_nm)
    return Targets(values, known)


def is_continuous(task: TaskSpec) -> list[bool]:
    """For each channel, whether its target is a continuous value (resized by interpolation, not by nearest)."""
    return [channel.target.kind in CONTINUOUS_TARGETS for channel in task.channels]


def check_voxel_size(task: TaskSpec, voxel_size_nm: tuple[float, ...] | None) -> None:
    """Check that the voxel size is known where a target of `task` is measured in nanometres.

    Raises:
        SpecError: it is not.
    """
    if voxel_size_nm is None and any(channel.target.kind == "lsd" for channel in task.channels):
        raise SpecError(
            f"the task {task.name!r} measures shapes in nanometres, and the voxel size is not known: add "
            "data.voxel_size_nm=[Z,Y,X]."
        )


def _make_channel(
    labels: NDArray[Any], annotated: NDArray[np.bool_], channel: ChannelSpec, *, voxel_size_nm: tuple[float, ...] | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the target of a channel that is made alone, and where it is known, both (Z, Y, X)."""
    kind = channel.target.kind
    if kind == "foreground":
        return labels > 0, annotated
    if kind == "background":
        return labels == 0, annotated
    if kind == "class":
        assert channel.target.labels is not None
        return is_one_of(labels, channel.target.labels), annotated
    if kind == "presynapse":
        return (labels > 0) & (labels % 2 == 1), annotated
    if kind == "postsynapse":
        return (labels > 0) & (labels % 2 == 0), annotated
    if kind == "boundary":
        between, unknown = find_faces(labels, annotated, axes=face_axes(voxel_size_nm))
        return between, annotated & (between | ~unknown)
    if kind == "distance":
        return edge_distances(labels, annotated, voxel_size_nm=voxel_size_nm)
    assert kind == "value", kind
    low, high = float(labels.min()), float(labels.max())
    if not 0 <= low <= high <= 1:
        raise VolumeError(
            f"the channel {channel.name!r} takes labels as values, which must lie in 0..1 and lie in {low:g}..{high:g}."
        )
    return labels, annotated


def _describe_shapes(
    labels: NDArray[Any],
    values: NDArray[np.float32],
    known: NDArray[np.bool_],
    *,
    task: TaskSpec,
    sigma_nm: float,
    voxel_size_nm: tuple[float, ...],
) -> None:
    """Write the shape descriptors with `sigma_nm` of every channel that is one; background has none."""
    shapes = shape_descriptors(labels, sigma_nm=sigma_nm, voxel_size_nm=voxel_size_nm)
    for index, channel in enumerate(task.channels):
        if channel.target.kind == "lsd" and channel.target.sigma_nm == sigma_nm:
            assert channel.target.component is not None
            values[index] = shapes.get(channel.target.component, 0)
            known[index] &= labels != 0
