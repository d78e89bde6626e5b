"""Trains one reference with one seed, as far as that is not done, and knows how long its steps took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.compare.folder import read_json, write_json
from connectomics_zoo.compare.members import Member
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import remove_folder
from connectomics_zoo.runs.folder import SPEC_FILE, get_run
from connectomics_zoo.runs.metrics import has_metrics
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.train.run import train

WARM_UP_STEPS = 2
"""Steps that do not count where speed is measured: memory is taken and kernels are chosen in them."""

TIMED_STEPS = 6
"""Steps whose mean is the speed from which minutes become steps."""

SAVED_EVERY = 20
"""Steps after which the time of a run is written down, for the case that it is killed."""


class StepClock:
    """Adds up the time of steps, without that of validations; is told as `train` tells of its progress.

    Args:
        skip: steps at the beginning that do not count.
        file: where the time is kept, and taken up by the next process; None keeps nothing.
        then: is told the same progress.
    """

    def __init__(
        self, *, skip: int = 0, file: Path | None = None, then: Callable[[Progress], None] | None = None
    ) -> None:
        before = (read_json(file) if file is not None else None) or {"seconds": 0.0, "steps": 0}
        self.seconds: float = before["seconds"]
        self.steps: int = before["steps"]
        self.skip = skip
        self.file = file
        self.then = then
        self._last: tuple[int, float] | None = None

    def __call__(self, progress: Progress) -> None:
        """Count a step, where one has ended since the last call."""
        now = time.monotonic()
        if self._last is not None and progress.done == self._last[0] + 1:
            if self.skip > 0:
                self.skip -= 1
            else:
                self.seconds += now - self._last[1]
                self.steps += 1
        is_step = self._last is None or progress.done != self._last[0]
        if self.file is not None and is_step and (progress.done % SAVED_EVERY == 0 or progress.done == progress.total):
            write_json(self.file, {"seconds": self.seconds, "steps": self.steps})
        if self.then is not None:
            self.then(progress)
        self._last = progress.done, time.monotonic()

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of the steps that were counted, None before the first."""
        return self.seconds / self.steps if self.steps else None


def steps_in(minutes: float, member: Member, folder: Path, *, device: str) -> int:
    """Return how many steps a member does in `minutes`, by the mean of a few steps that are done and thrown away.

    Args:
        minutes: of training.
        member: what is trained.
        folder: where it may write.
        device: as for `train`.
    """
    assert member.overrides is not None
    clock = StepClock(skip=WARM_UP_STEPS)
    few = {"training": {"max_steps": WARM_UP_STEPS + TIMED_STEPS, "keep": "last"}, "data": {"validation": []}}
    trial = folder / "speed"
    remove_folder(trial)
    try:
        train(member.ref, merge(member.overrides, few), output=trial, device=device, progress=clock)
    finally:
        remove_folder(trial)
    assert clock.seconds_per_step is not None
    return max(1, int(60 * minutes / clock.seconds_per_step))


def refuse_other(member: Member, seed: int, folder: Path) -> None:
    """Refuse a run folder that holds another run than the one that the member would have with this seed.

    Raises:
        OutputError: it does.
    """
    if not (folder / SPEC_FILE).is_file():
        return
    assert member.run is not None
    wanted = member.run.model_copy(update={"training": member.run.training.model_copy(update={"seed": seed})})
    documents = [run.model_dump(mode="json", exclude={"versions", "trained_on"}) for run in (get_run(folder), wanted)]
    for document in documents:
        document["model"].pop("expect", None)  # counted when the training begins
    difference = _first_difference(documents[0], documents[1])
    if difference is not None:
        key, before, now = difference
        raise OutputError(
            f"{folder}: was trained with {key} {before!r}, and not {now!r}: give the same, or choose another folder "
            "with --output."
        )


def train_seed(
    member: Member,
    seed: int,
    folder: Path,
    *,
    device: str,
    progress: Callable[[Progress], None],
    notify: Callable[[str], None] | None,
) -> float | None:
    """Train a member with a seed, or go on with it; a run that is complete is left as it is.

    Args:
        member: what is trained.
        seed: of initialisation, sampling and augmentation.
        folder: its run folder.
        device: as for `train`.
        progress: is told of every step and validation.
        notify: is told what became of the weights to start from.

    Returns:
        The minutes that its steps took, None where nobody has measured them.

    Raises:
        ZooError: it cannot be trained.
    """
    assert member.overrides is not None
    clock = StepClock(file=folder.with_name(f"{folder.name}.time.json"), then=progress)
    if (folder / SPEC_FILE).is_file():
        if not has_metrics(folder):
            train(folder, resume=True, device=device, progress=clock, notify=notify)
    else:
        overrides = merge(member.overrides, {"training": {"seed": seed}})
        train(member.ref, overrides, output=folder, device=device, progress=clock, notify=notify)
    seconds = clock.seconds_per_step
    return None if seconds is None else seconds * get_run(folder).training.max_steps / 60


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in [*before, *(name for name in now if name not in before)]:
            found = _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
            if found is not None:
                return found
        return None
    return None if before == now else (key, before, now)
