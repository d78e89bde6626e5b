"""The spec of its task that a prediction on disk carries, as text."""

from __future__ import annotations

import json

from connectomics_zoo.errors import SpecError
from connectomics_zoo.reading import parse_yaml
from connectomics_zoo.registry import validate
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.volumes.volume import Volume

DEFAULT_CUT = 0.5
"""The threshold of probabilities of which no task is known."""


def task_text(task: TaskSpec) -> str:
    """Return the spec as a prediction carries it: one line of JSON, without what is not set."""
    return json.dumps(task.model_dump(mode="json", exclude_none=True), separators=(",", ":"))


def cut_of(volume: Volume) -> float:
    """Return the value above which a channel of a prediction says yes: that of the task it carries, else `DEFAULT_CUT`.

    Raises:
        SpecError: the task is no valid spec.
    """
    if volume.task is None:
        return DEFAULT_CUT
    return read_task(volume.task, source=f"the task in {volume.location}").decode.cut


def read_task(text: str, *, source: str) -> TaskSpec:
    """Return the task in the `text` that a prediction carries; `source` names it in errors.

    Raises:
        SpecError: it is no valid spec.
    """
    document = parse_yaml(text, source=source)
    if not isinstance(document, dict):
        raise SpecError(f"{source}: holds {type(document).__name__}, a spec is a mapping of keys to values.")
    return validate(TaskSpec, document, source=source)
