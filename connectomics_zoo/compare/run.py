"""`compare`: trains or loads every reference under one budget, scores all of them on the same volumes, and says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from connectomics_zoo.compare.data import Shared, VolumeRequest, check_scored, scored_pairs, share, single_regions
from connectomics_zoo.compare.folder import hold
from connectomics_zoo.compare.members import (
    Member,
    common_data,
    find_members,
    seen_by,
    unlike,
    with_steps,
)
from connectomics_zoo.compare.once import each_once
from connectomics_zoo.compare.report import CompareReport
from connectomics_zoo.compare.rows import Work, row_of
from connectomics_zoo.compare.training import refuse_other
from connectomics_zoo.compare.writing import write_results
from connectomics_zoo.errors import SpecError, ZooError
from connectomics_zoo.schema.experiment import DataSpec, VolumePair
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress
from connectomics_zoo.volumes.box import region_text

MOST_SEEDS = 100


def compare(
    refs: Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    *,
    data: str | Path | VolumeRequest | None = None,
    test: VolumeRequest | Sequence[VolumeRequest] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seeds: int = 1,
    output: str | Path = "comparison",
    device: str = "auto",
    memory: Literal["measure", "skip"] = "measure",
    progress: Callable[[Progress], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> CompareReport:
    """Train every model and experiment under one budget, and score them and trained weights on the same volumes.

    Each run gets the same data, and as its seed 0, 1, …; one seed is that of initialisation, sampling and augmentation.
    What is scored has chosen nothing: a test, for which the best validation chooses the weights; or without one the
    validation data, of which the last weights are scored. Every run folder is in `output`: where something stops a
    comparison, the same call goes on, and another reference or more seeds are added to what is there. A reference that
    cannot be trained or scored is a row that says why.

    Args:
        refs: models and experiments, which are trained; run folders and trained weights (`name.tag`,
            `hf://org/repo@revision`), which are scored alone.
        overrides: nested fields to change of all that are trained: `{"task": "mito", "data": {"train": …}}`.
        data: an experiment (a name or a YAML file) whose task and data all take, and models its recipe as well; or
            `{"image": …, "label": …}` and perhaps `mask` and `region`, whose first sections are trained on, the next
            fifth is validated on, and the last fifth is the test where no other is given.
        test: the pairs that are scored, below `data.root`; `{"region": …}` is enough where all data are of one volume.
        steps: optimiser steps of each run.
        minutes: of training for each run, without validations: as many steps as a reference does in them, by the mean
            of a few steps that are done before and thrown away. Its schedule ends with them.
        seeds: how often each reference is trained.
        output: the folder of the comparison.
        device: `auto`, `cpu`, `cuda` or `mps`.
        memory: whether peak memory is measured, each time in a process of its own.
        progress: is told of every step.
        notify: is told what became of weights to start from.

    Raises:
        ZooError: something is wrong with the arguments or with all references, or the folder is in use or of another
            comparison.
        KeyboardInterrupt: it was stopped; the same call goes on.
    """
    if not refs:
        raise SpecError("there is nothing to compare, give models, experiments, run folders or trained weights.")
    if not 1 <= seeds <= MOST_SEEDS:
        raise SpecError(f"seeds is {seeds}, give 1 to {MOST_SEEDS}.")
    if memory not in ("measure", "skip"):
        raise SpecError(f"memory is {memory!r}, give measure or skip.")
    shared = share(data, test, overrides or {})
    members = find_members(refs, shared, recipe={"keep": "best" if shared.test else "last", "early_stopping": 0})
    budget = _budget(members, steps=steps, minutes=minutes)
    common, task = common_data(members, shared.overrides)
    pairs = scored_pairs(shared.test, common)
    members = [_refused(member, unlike(member, common, task)) if member.error is None else member for member in members]
    check_scored(pairs, common, task=task)
    report = CompareReport(
        folder=Path(output),
        task=task.name,
        budget=budget,
        seeds=seeds,
        scored=tuple(_said(pair) for pair in pairs),
        scored_as="test" if shared.test else "validation",
        rows=(),
        machine="",
    )
    work = Work(
        folder=Path(output),
        pairs=pairs,
        data=common,
        task=task,
        device=device,
        memory=memory == "measure",
        progress=progress or notebook_bar("compare"),
        notify=notify,
    )
    with hold(Path(output), _plan(report, common)), each_once():
        try:
            return _carry_out(members, work, report, shared=shared, steps=steps, minutes=minutes)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{output}: stopped, the same command goes on.") from None


def _budget(members: Sequence[Member], *, steps: int | None, minutes: float | None) -> str:
    """Return the budget in words.

    Raises:
        SpecError: there is none, there are two, or nobody is trained.
    """
    given = [value for value in (steps, minutes) if value is not None]
    if not any(member.is_trained_here for member in members):
        if given:
            raise SpecError("all references are trained already, leave out the budget (steps, minutes).")
        return ""
    if len(given) != 1:
        raise SpecError("give one budget for each run: steps (--steps 2000) or minutes (--minutes 30).")
    if not given[0] > 0:
        raise SpecError(f"the budget is {given[0]}, give more than 0.")
    if steps is not None:
        return f"{steps} step{'s' if steps > 1 else ''}"
    return f"{minutes:g} minute{'s' if minutes != 1 else ''}"


def _refused(member: Member, why: str | None) -> Member:
    return member if why is None else replace(member, error=why)


def _said(pair: VolumePair) -> str:
    parts = [region_text(part.region) for part in single_regions(pair)]
    return " ".join([pair.image, *(part for part in parts if part is not None)])


def _plan(report: CompareReport, data: DataSpec) -> dict[str, Any]:
    """Return what must stay as it is when a comparison goes on."""
    root = [] if data.root is None else [f"below {data.root}"]
    return {
        "the task": report.task,
        "the budget": report.budget,
        "the training data": "; ".join([*map(_said, data.train), *root]),
        "the validation data": "; ".join(map(_said, data.validation)),
        "the data that are scored": f"{report.scored_as}: {'; '.join(report.scored)}",
    }


def _carry_out(
    members: Sequence[Member],
    work: Work,
    report: CompareReport,
    *,
    shared: Shared,
    steps: int | None,
    minutes: float | None,
) -> CompareReport:
    """Do all that is not done yet, and return the report with its rows; the results are written after each run."""
    every = shared.overrides.get("training", {}).get("validate_every")
    current: dict[str, Member] = {}
    for member in members:
        current[member.name] = member
        if member.error is None and member.is_trained_here:
            current[member.name] = _attempt(
                member, partial(_with_budget, work=work, steps=steps, minutes=minutes, every=every)
            )
    able = [member for member in current.values() if member.error is None and member.is_trained_here]
    for member in able:
        for seed in range(report.seeds):
            refuse_other(member, seed, work.run_folder(member, seed))
    work.expect([member for member in current.values() if member.error is None], seeds=report.seeds)

    def results() -> CompareReport:
        rows = [row_of(member, work, seeds=report.seeds, seen=seen[member.name]) for member in current.values()]
        return replace(report, rows=tuple(rows), machine=work.machines([*current.values()], seeds=report.seeds))

    seen = {member.name: seen_by(member, work.pairs, work.data) for member in members}
    for seed in range(report.seeds):
        for member in current.values():
            if member.error is None and (member.is_trained_here or seed == 0):
                current[member.name] = _attempt(member, partial(work.do, seed=seed))
                write_results(results(), picture=False)
    final = results()
    write_results(final, picture=True)
    return final


def _attempt(member: Member, action: Callable[[Member], Member]) -> Member:
    """Return the member after an action; where that fails, with the reason."""
    try:
        return action(member)
    except ZooError as error:
        return replace(member, error=str(error))
    except MemoryError:
        return replace(member, error="there is not enough memory, give a smaller training.patch_size or batch_size.")


def _with_budget(member: Member, work: Work, steps: int | None, minutes: float | None, *, every: int | None) -> Member:
    if steps is None:
        assert minutes is not None
        steps = work.steps_in(minutes, member)
    return with_steps(member, steps, validate_every=every)
