"""The sections of `zoo show` about a task."""

from __future__ import annotations

from connectomics_zoo.cli._describe import decoding
from connectomics_zoo.cli._sections import Facts, Shown, Table, Title
from connectomics_zoo.schema.target import TargetSpec
from connectomics_zoo.schema.task import TaskSpec


def task_title(shown: Shown) -> Title:
    """Name the task."""
    spec = _task(shown)
    return Title(spec.name, spec.summary)


def task_facts(shown: Shown) -> Facts:
    """Say what is done to labels, and with what is predicted."""
    spec = _task(shown)
    facts = {"decoding": decoding(spec)}
    if spec.labels.relabel or spec.labels.erosion:
        erosion = f"eroded by {spec.labels.erosion}" if spec.labels.erosion else ""
        facts["labels"] = ", ".join(filter(None, ("relabelled" if spec.labels.relabel else "", erosion)))
    if spec.affinities is not None:
        facts["affinities"] = f"offsets along {spec.affinities.axes}, stored at their {spec.affinities.edge_stored_at}"
    return Facts({**facts, "metrics": ", ".join(spec.metrics)})


def task_channels(shown: Shown) -> Table:
    """List the channels with their targets and losses."""
    return Table(
        ("channel", "activation", "target", "losses"),
        [
            (
                channel.name,
                channel.activation,
                _target(channel.target),
                " + ".join(f"{loss.weight:g} {loss.kind}" for loss in channel.losses) or "-",
            )
            for channel in _task(shown).channels
        ],
    )


def _target(target: TargetSpec) -> str:
    """The kind of target with what it needs."""
    if target.kind == "affinity":
        return f"affinity {list(target.offset or ())}, {'attractive' if target.attractive else 'repulsive'}"
    if target.kind == "lsd":
        return f"lsd {target.component}, sigma {target.sigma_nm:g} nm"
    what = target.kind if target.labels is None else f"class of {', '.join(map(str, target.labels))}"
    return what if target.volume is None else f"{what} of {target.volume}"


def _task(shown: Shown) -> TaskSpec:
    assert isinstance(shown.spec, TaskSpec), "these sections are for tasks alone"
    return shown.spec
