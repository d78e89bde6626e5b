"""The sections of `zoo show` about an experiment or a run."""

from __future__ import annotations

from connectomics_zoo.cli._curve import describe_curve
from connectomics_zoo.cli._describe import first_weights, listed, network_voxels, recipe
from connectomics_zoo.cli._sections import Facts, Shown, Table, Title
from connectomics_zoo.cli._table import Row
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, ExperimentSpec, Region, RunSpec

_VALIDATION = (
    "scores of windows side by side, not blended: zoo predict blends them, and zoo evaluate may give other scores"
)

_MOST_VOLUMES = 3
"""Volumes of each use that are listed where not all is shown: a path may take several lines."""

# Of an experiment -----------------------------------------------------------------------------------------------------


def experiment_title(shown: Shown) -> Title:
    """Name the experiment."""
    spec = _experiment(shown)
    return Title(spec.name, spec.summary)


def experiment_facts(shown: Shown) -> Facts:
    """Say which model learns what, and what is changed of its recipe."""
    spec = _experiment(shown)
    document = spec.model_dump(mode="json", exclude_none=True)
    changed = {**document["arch"], **document["training"]}
    changed |= {} if spec.threshold is None else {"threshold": spec.threshold}
    facts = {"model": spec.model, "task": spec.task, **first_weights(spec), "changes": listed(changed) or "none"}
    if spec.data.root == REQUIRED:
        facts["start"] = f"zoo train {spec.name} data.root=FOLDER"
    return Facts(facts)


def experiment_volumes(shown: Shown) -> Table:
    """List the volumes."""
    return _volumes(_experiment(shown).data, most=None if shown.all else _MOST_VOLUMES)


def _experiment(shown: Shown) -> ExperimentSpec:
    assert isinstance(shown.spec, ExperimentSpec), "these sections are for experiments alone"
    return shown.spec


# Of a run -------------------------------------------------------------------------------------------------------------


def run_title(shown: Shown) -> Title:
    """Name the run."""
    spec = _run(shown)
    return Title(spec.name, f"A run of {spec.model.reference} for {spec.task.name}.")


def run_facts(shown: Shown) -> Facts:
    """Say how it was trained, and how it predicts."""
    spec = _run(shown)
    window = " × ".join(map(str, spec.prediction.window or ()))
    one = spec.prediction.views == "one"
    views = "" if one else f", views {spec.prediction.views} merged by {spec.prediction.merge}"
    training = spec.training
    return Facts(
        {
            **({"model": spec.model.reference, "task": spec.task.name} if shown.all else {}),
            **first_weights(spec),
            **network_voxels(spec),
            **describe_curve(spec, shown.found.path.parent),
            "training": listed(training.model_dump(mode="json")) if shown.all else recipe(training),
            **({"validation": _VALIDATION} if spec.data.validation else {}),
            **({} if spec.trained_on is None else {"trained on": spec.trained_on}),
            "prediction": f"window {window}, overlap {spec.prediction.overlap:g}{views}",
            **({"versions": listed(spec.versions)} if shown.all else {}),
        }
    )


def run_volumes(shown: Shown) -> Table:
    """List the volumes."""
    return _volumes(_run(shown).data, most=None if shown.all else _MOST_VOLUMES)


def _run(shown: Shown) -> RunSpec:
    assert isinstance(shown.spec, RunSpec), "these sections are for runs alone"
    return shown.spec


def _volumes(data: DataSpec, *, most: int | None) -> Table:
    """List the volumes, the first `most` of each use before the others."""
    first: list[Row] = []
    others: list[Row] = []
    for use, pairs in (("train", data.train), ("validation", data.validation)):
        for number, pair in enumerate(pairs):
            regions = "; ".join(_limits(region) for region in pair.regions or (pair.region,))
            rows = first if most is None or number < most else others
            rows.append((use, pair.image, pair.label_text, regions or "all"))
    return Table(("use", "image", "label", "region"), [*first, *others], most=len(first))


def _limits(region: Region) -> str:
    limits = region.model_dump(exclude_none=True)
    return ", ".join(f"{axis} {first} to {last - 1}" for axis, (first, last) in limits.items())
