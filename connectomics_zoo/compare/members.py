"""Who is compared: each reference as a complete run, to be trained or trained already, or why it cannot take part."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo.catalog import names_of
from connectomics_zoo.compare.data import Shared, seen_before
from connectomics_zoo.compare.report import Seen
from connectomics_zoo.errors import SpecError, ZooError
from connectomics_zoo.schema.experiment import DataSpec, ExperimentSpec, RunSpec, VolumePair
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import resolve_any
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.train.run import complete_run
from connectomics_zoo.weights.pretrained import Pretrained, find_run

Kind = Literal["model", "experiment", "trained"]
"""What a reference is: a model or an experiment to train, or trained weights."""

FIXED = {
    "max_steps": "the budget is what steps or minutes say",
    "seed": "seeds are counted from 0",
    "keep": "a test lets validation choose the weights, and without one the last ones are kept",
    "early_stopping": "all have the same budget",
}
"""Fields of `training` that a comparison sets itself, and why."""


VALIDATIONS = 10
"""How often a run is validated where nobody says it: so many points has its curve."""


@dataclass(frozen=True)
class Member:
    """One reference."""

    ref: str
    """As the user gave it."""
    name: str
    """Its folder in the comparison's."""
    kind: Kind
    """What it is."""
    run: RunSpec | None = None
    """The complete run with the first seed, or the one that trained the weights; None where there is an error."""
    overrides: Mapping[str, Any] | None = None
    """What its runs are trained with, beside steps and seed."""
    weights: Pretrained | None = None
    """Where they are trained already."""
    error: str | None = None
    """Why it cannot take part, in one sentence."""

    @property
    def is_trained_here(self) -> bool:
        """Whether the comparison trains it."""
        return self.kind != "trained"


def find_members(refs: Sequence[str | Path], shared: Shared, *, recipe: Mapping[str, Any]) -> list[Member]:
    """Return the members that references mean; what is wrong with one of them alone is its `error`.

    Args:
        refs: experiments, models, run folders and trained weights.
        shared: what all get.
        recipe: overrides of `training` that the comparison makes.

    Raises:
        ZooError: a reference means nothing, two are the same, or no reference can take part.
    """
    kinds = [(str(ref), _kind(ref)) for ref in refs]
    names = [_folder_name(text) for text, _ in kinds]
    twice = next((text for (text, _), name in zip(kinds, names, strict=True) if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(
            f"{twice!r} is there twice, leave one out (a variant of it is an experiment with its own name)."
        )
    own = shared.overrides.get("training", {})
    for field, reason in FIXED.items():
        if isinstance(own, Mapping) and field in own:
            raise SpecError(f"training.{field} is not possible here, {reason}: leave it out.")
    members, errors = [], []
    for (text, kind), name in zip(kinds, names, strict=True):
        try:
            members.append(_complete(text, name, kind, shared, recipe=recipe))
        except ZooError as error:
            errors.append(error)
            members.append(Member(text, name, kind, error=str(error)))
    if len(errors) == len(members):
        raise errors[0]
    return members


def _kind(ref: str | Path) -> Kind:
    """Return what a reference is.

    Raises:
        ZooError: it means nothing.
    """
    text = str(ref)
    if text.rpartition(":")[2] in names_of("experiment"):
        return "experiment"
    if Path(text).suffix in (".yaml", ".yml"):
        return "experiment" if isinstance(resolve_any(text).spec, ExperimentSpec) else "model"
    reference = parse_reference(ref)
    if reference.hub is not None or reference.tag is not None or reference.path is not None:
        return "trained"
    resolve_any(text, kind="model")
    return "model"


def _folder_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", text).strip("-.") or "reference"


def _complete(text: str, name: str, kind: Kind, shared: Shared, *, recipe: Mapping[str, Any]) -> Member:
    if kind == "trained":
        run, weights = find_run(text)
        return Member(text, name, kind, run=run, weights=weights)
    overrides = merge(merge(shared.recipe if kind == "model" else {}, shared.overrides), {"training": recipe})
    return Member(text, name, kind, run=complete_run(text, overrides), overrides=overrides)


def with_steps(member: Member, steps: int, *, validate_every: int | None) -> Member:
    """Return a member that is trained for so many steps, and validated ten times unless something else is said."""
    assert member.run is not None
    assert member.overrides is not None
    changes = {"max_steps": steps, "validate_every": validate_every or max(1, -(-steps // VALIDATIONS))}
    run = member.run.model_copy(update={"training": member.run.training.model_copy(update=changes)})
    return replace(member, run=run, overrides=merge(member.overrides, {"training": changes}))


def common_data(members: Sequence[Member], overrides: Mapping[str, Any]) -> tuple[DataSpec, TaskSpec]:
    """Return data and task of the first member, which the others are held to.

    Where none is trained here, they are those of the first weights, with what the overrides change.
    """
    first = next((member for member in members if member.is_trained_here and member.run is not None), None)
    if first is not None and first.run is not None:
        return first.run.data, first.run.task
    run = next(member.run for member in members if member.run is not None)
    given = overrides.get("data", {})
    own = {} if "train" in given or "validation" in given else run.data.model_dump(mode="json", exclude_none=True)
    return validate(DataSpec, merge(own, given), source="data"), run.task


def unlike(member: Member, data: DataSpec, task: TaskSpec) -> str | None:
    """Return why a member cannot be compared with the others, in one sentence, or None."""
    assert member.run is not None
    if _meaning(member.run.task) != _meaning(task):
        return (
            f"{member.ref} is of the task {member.run.task.name}, and what is compared is {task.name}: give task=… or "
            "compare it by itself."
        )
    if not member.is_trained_here:
        return None
    for part in ("train", "validation"):
        if _pairs(member.run.data, part) != _pairs(data, part):
            return (
                f"{member.ref} has other volumes or regions in data.{part} than the first reference: give data for all "
                "(--data, or data.train and data.validation)."
            )
    return None


def _meaning(task: TaskSpec) -> list[object]:
    return [task.labels, *((channel.name, channel.target) for channel in task.channels)]


def _pairs(data: DataSpec, part: str) -> list[tuple[str | None, VolumePair]]:
    pairs: Sequence[VolumePair] = getattr(data, part)
    return [(data.root, pair) for pair in pairs]


def seen_by(member: Member, pairs: Sequence[VolumePair], data: DataSpec) -> Seen:
    """Return what scored pairs were for the weights of a member, and for the weights that it starts from."""
    found: set[Seen] = set()
    run, visited = member.run, set[str]()
    while run is not None:
        found.add(seen_before(run, pairs, data))
        start = run.init_from
        if start is None or start in visited:
            break
        visited.add(start)
        try:
            run = find_run(start)[0]
        except ZooError:  # a file of weights says nothing, and the ancestors of a run may be gone
            break
    return "trained" if "trained" in found else "chose" if "chose" in found else "nothing"
