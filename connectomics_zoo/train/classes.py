"""Whether the label volumes of a run are those that its task names, and annotate what they say that they do."""

from __future__ import annotations

import logging

from connectomics_zoo.errors import SpecError, nearest
from connectomics_zoo.schema.experiment import DataSpec, RunSpec, VolumePair
from connectomics_zoo.schema.task import ChannelSpec, TaskSpec
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.tasks.targets import make_targets
from connectomics_zoo.train.inspection import label_blocks
from connectomics_zoo.volumes.pair_reader import PairReader

_log = logging.getLogger(__name__)

_WHOLE = "its region"


def check_classes(data: DataSpec, *, task: TaskSpec, source: str) -> None:
    """Refuse label volumes that the task does not have, the lack of one that it needs, and unknown classes.

    Args:
        data: the volumes.
        task: the task.
        source: names the spec in errors.

    Raises:
        SpecError: they do not fit each other.
    """
    for part, pairs in (("train", data.train), ("validation", data.validation)):
        for index, pair in enumerate(pairs):
            key = f"data.{part}" if len(pairs) == 1 else f"data.{part}.{index}"
            _check_annotated(pair, key, task=task, source=source)
            _check_volumes(pair, key, task=task, source=source)


def _check_annotated(pair: VolumePair, key: str, *, task: TaskSpec, source: str) -> None:
    """Refuse the names of channels that there are not."""
    names = [channel.name for channel in task.channels]
    for name in pair.annotated or ():
        if name not in names:
            raise SpecError(
                f"{source}: {key}.annotated names {name!r}, which the task {task.name} does not have: "
                f"{nearest(name, names)}"
            )


def _check_volumes(pair: VolumePair, key: str, *, task: TaskSpec, source: str) -> None:
    """Refuse label volumes that are too many or too few for what the pair annotates."""
    wanted = ", ".join(task.volumes)
    if isinstance(pair.label, str):
        if task.volumes:
            raise SpecError(
                f"{source}: the task {task.name} is made of several label volumes ({wanted}), and {key}.label is one: "
                f"give each its place, as in {key}.label.{task.volumes[0]}=FILE:DATASET."
            )
        return
    if not task.volumes:
        raise SpecError(
            f"{source}: {key}.label has the volumes {', '.join(pair.label)}, and the task {task.name} is made of one: "
            f"give {key}.label=FILE:DATASET."
        )
    for name in pair.label:
        if name not in task.volumes:
            raise SpecError(
                f"{source}: {key}.label.{name} is no label volume of the task {task.name}: "
                f"{nearest(name, task.volumes)}"
            )
    for channel in task.channels:
        is_annotated = pair.annotated is None or channel.name in pair.annotated
        if is_annotated and channel.target.volume not in pair.label:
            raise SpecError(
                f"{source}: {key}.label lacks the volume {channel.target.volume}, of which {channel.name!r} is made: "
                f"give {key}.label.{channel.target.volume}=FILE:DATASET, or list in {key}.annotated what is annotated."
            )


def check_balance(training: TrainingSpec, *, task: TaskSpec, source: str) -> None:
    """Refuse a balance of classes that there are not, or of patches that are centred on nothing.

    Raises:
        SpecError: it would have no effect.
    """
    if training.balance == "none":
        return
    if len(task.scored) < 2:
        raise SpecError(
            f"{source}: training.balance={training.balance} draws each class as often as the others, and the task "
            f"{task.name} has one: leave it out."
        )
    if training.foreground_probability == 0:
        raise SpecError(
            f"{source}: training.balance={training.balance} says on what patches are centred, and with "
            "training.foreground_probability=0 none is: leave one of them out."
        )


def look_for_classes(run: RunSpec) -> None:
    """Log which volumes have no voxel of a class that they annotate.

    Of large volumes, a few blocks are looked at, and none that is left once every class was seen.

    Raises:
        SpecError: no training volume has one, so that the class could be learnt as absent alone.
    """
    if not run.task.has_classes:
        return
    absent: dict[str, list[str]] = {}
    for number, pair in enumerate((*run.data.train, *run.data.validation)):
        missing, part = _missing_classes(pair, run)
        for channel in missing:
            place = pair.label_places[channel.target.volume]
            _log.warning(
                "%s has no voxel of the class %r in %s: if nobody annotated it there, leave it out of annotated",
                place,
                channel.name,
                part,
            )
            if number < len(run.data.train) and part == _WHOLE:
                absent.setdefault(channel.name, []).append(place)
    for name, places in absent.items():
        annotating = [pair for pair in run.data.train if pair.annotated is None or name in pair.annotated]
        if len(places) == len(annotating):
            raise SpecError(
                f"no training volume has a voxel of the class {name!r} ({', '.join(places)}), and without one it is "
                "learnt as absent everywhere: give a volume or a region that has it, check the labels of its target, "
                "or list in data.train.annotated what is annotated."
            )


def _missing_classes(pair: VolumePair, run: RunSpec) -> tuple[list[ChannelSpec], str]:
    """Return the classes that a pair annotates and was not seen to have, and the part of it that was looked at."""
    reader = PairReader(pair, run.data)
    try:
        blocks, total = label_blocks(reader)
        left = [
            channel
            for channel in (run.task.channels[index] for index in run.task.scored)
            if pair.annotated is None or channel.name in pair.annotated
        ]
        for block in blocks:
            if not left:
                break
            labels, annotated = reader.read_volume_truth(block)
            values, known = make_targets(
                labels,
                task=run.task.model_copy(update={"channels": tuple(left)}),
                voxel_size_nm=reader.image.voxel_size_nm,
                annotated=annotated,
                volumes=tuple(reader.labels),
            )
            seen = (values > 0.5) & known
            left = [channel for channel, voxels in zip(left, seen, strict=True) if not voxels.any()]
    finally:
        reader.close()
    return left, _WHOLE if len(blocks) == total else f"the {len(blocks)} of {total} blocks that were looked at"
