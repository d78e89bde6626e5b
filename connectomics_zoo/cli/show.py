"""`zoo show`: everything that is declared about a model, task, experiment or run, with overrides applied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from connectomics_zoo.cli._console import print_json, print_line, print_text, print_yaml
from connectomics_zoo.cli._references import complete_reference
from connectomics_zoo.cli._table import print_facts, print_table

if TYPE_CHECKING:
    from connectomics_zoo.schema.experiment import DataSpec, ExperimentSpec, RunSpec, Spec
    from connectomics_zoo.schema.model import ModelSpec, WeightsEntry
    from connectomics_zoo.schema.target import TargetSpec
    from connectomics_zoo.schema.task import TaskSpec
    from connectomics_zoo.specs.lookup import Resolved

_EPILOG = """\b
Examples:
  zoo show mednext-S
  zoo show mednext-S.vnc-mito
  zoo show mednext-S arch.kernel_size=5 input.channels=2
  zoo show mednext-S --yaml > my-model.yaml
  zoo show mito
  zoo show runs/my-run --json
"""

_VALIDATION = (
    "scores of windows side by side, not blended: zoo predict blends them, and zoo evaluate may give other scores"
)


@click.command(epilog=_EPILOG)
@click.argument("ref", shell_complete=complete_reference)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--kind",
    type=click.Choice(["model", "task", "experiment", "run"]),
    help="What REF is, where the name alone does not say it; of a run, `model` is its model.",
)
@click.option("--yaml", "output", flag_value="yaml", help="Print the complete spec alone, as YAML.")
@click.option("--json", "output", flag_value="json", help="Print the complete spec alone, as JSON.")
def command(ref: str, overrides: tuple[str, ...], kind: Any, output: str | None) -> None:
    """Show a summary of REF and its complete spec, with every default stated.

    REF is a name, name@1.0.0, name.tag, catalog:name, a YAML file, or a run folder. Overrides address fields of the
    spec; in a model these are arch.*, input.channels, outputs.channels, training.* and the words about it.
    """
    from connectomics_zoo.specs.lookup import resolve_any
    from connectomics_zoo.specs.overrides import parse_overrides

    found = resolve_any(ref, kind=kind)
    changes = parse_overrides(overrides)
    spec = _change(found.spec, changes, source=ref) if changes else found.spec
    document = spec_document(spec)
    if output == "json":
        print_json(document)
        return
    from connectomics_zoo.files.yaml import dump_yaml

    if output is None:
        _print_summary(spec, found)
    print_yaml(dump_yaml(document))


def spec_document(spec: Spec) -> dict[str, Any]:
    """Return the complete spec as data; an experiment leaves out what it does not change of its model's recipe."""
    from connectomics_zoo.schema.experiment import ExperimentSpec
    from connectomics_zoo.schema.task import TaskSpec

    return spec.model_dump(mode="json", exclude_none=isinstance(spec, ExperimentSpec | TaskSpec))


def _change(spec: Spec, changes: Mapping[str, Any], *, source: str) -> Spec:
    from connectomics_zoo.errors import SpecError
    from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec
    from connectomics_zoo.schema.model import ModelSpec
    from connectomics_zoo.schema.validation import validate
    from connectomics_zoo.specs.overrides import merge, override_model
    from connectomics_zoo.specs.resolve import check_arch

    if isinstance(spec, RunSpec):
        raise SpecError(f"{source} is a run, which is what it was: leave the overrides out, or show its model.")
    if isinstance(spec, ModelSpec):
        return override_model(spec, changes)
    changed = validate(type(spec), merge(spec_document(spec), changes), source=source)
    if isinstance(changed, ExperimentSpec):
        check_arch(changed)
    return changed


def _print_summary(spec: Spec, found: Resolved) -> None:
    """Print `spec`, which is the one that was found, or that with changes."""
    from connectomics_zoo.schema.experiment import ExperimentSpec, RunSpec
    from connectomics_zoo.schema.model import ModelSpec

    if isinstance(spec, ModelSpec):
        if found.reference.tag is not None and spec is found.spec:  # what is changed has no weights
            _print_weights(spec, found.reference.tag, found=found)
        _print_model(spec)
    elif isinstance(spec, RunSpec):
        _print_run(spec)
    elif isinstance(spec, ExperimentSpec):
        _print_experiment(spec)
    else:
        _print_task(spec)
    _print_changes(spec, found.spec)
    print_line()


def _print_weights(spec: ModelSpec, tag: str, *, found: Resolved) -> None:
    """Print what is declared about one of the model's weights."""
    entry, reference = spec.weights[tag], found.reference.text
    _print_title(reference, f"Trained weights of {spec.reference} for the task {entry.task}.")
    facts = {
        "scores": ", ".join(f"{name} {value:.4f}" for name, value in entry.metrics.items()) or "not stated",
        "data": entry.dataset,
        "split": entry.split or "not stated",
        "recipe": entry.recipe or "not stated",
        **_describe_use(entry, found.path.parent),
        "seed": "not stated" if entry.seed is None else str(entry.seed),
        "licence of the weights": entry.license,
        "channels": f"{entry.input_channels or spec.input.channels} in, "
        f"{entry.output_channels or spec.outputs[0].channels} out",
        "file": f"{entry.file}, {_describe_place(entry)}"
        + ("" if entry.size is None else f", {entry.size / 1e6:.1f} MB"),
        "sha256": entry.sha256,
        "load": f'zoo.load("{reference}")',
    }
    print_facts(facts)
    print_line()


def _describe_use(entry: WeightsEntry, folder: Path) -> dict[str, str]:
    """Return what the spec in a file of weights says of their use; nothing where that is not in the package."""
    from connectomics_zoo.errors import ZooError
    from connectomics_zoo.specs.embedded import run_in

    if entry.source != "package" or not (folder / entry.file).is_file():
        return {}
    try:
        run = run_in(folder / entry.file)
    except ZooError as error:
        return {"not to be used": str(error)}
    if run is None:
        return {}
    facts = _first_weights(run)
    if run.data.network_voxel_nm is not None:
        facts["network voxels"] = f"{' × '.join(f'{edge:g}' for edge in run.data.network_voxel_nm)} nm (z, y, x)"
        if max(run.data.downsample) > 1:
            facts["network voxels"] += f", each the mean of {' × '.join(map(str, run.data.downsample))} of the volume's"
    return facts | {"decoding": _describe_decoding(run.task)}


def _describe_place(entry: WeightsEntry) -> str:
    return "in the package" if entry.source == "package" else f"hf://{entry.repo}@{entry.revision}"


def _print_model(spec: ModelSpec) -> None:
    _print_title(f"{spec.name} {spec.version}", spec.summary)
    facts = {"family": spec.family, "builder": spec.builder}
    if spec.expect is None:
        facts["parameters"] = "not measured for this network (zoo new measures them)"
    else:
        counts = spec.expect.parameters
        facts["parameters"] = f"{counts.training:,} in training, {counts.inference:,} in inference"
        if spec.expect.flops is not None:
            shape = " × ".join(map(str, spec.expect.flops.input_shape))
            facts["cost"] = f"{spec.expect.flops.total / 1e9:,.1f} GFLOPs at an input of {shape}"
    facts["input"] = f"{spec.input.channels} channel(s), axes {', '.join(spec.input.axes)}"
    facts["legal sizes"] = f"{spec.input.size.describe()} voxels, n = 0, 1, 2, …"
    weights = [_describe_weights(tag, entry) for tag, entry in spec.weights.items()]
    facts |= {
        "weights": "\n".join(weights) or "none",
        "paper": spec.source.paper,
        "url": spec.source.url,
        "code": spec.source.code,
        "licence": spec.source.license,
    }
    print_facts(facts)
    print_line()
    print_table(
        ("output", "channels", "stride", "loss weight"),
        [
            (output.name, str(output.channels), "×".join(map(str, output.stride)), f"{output.loss_weight:g}")
            for output in spec.outputs
        ],
    )


def _describe_weights(tag: str, entry: WeightsEntry) -> str:
    """One line on trained weights: what for, how good, whose, and where they are."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.metrics.items())
    parts = [f"{tag}: {entry.task}", scores, entry.dataset, entry.license, _describe_place(entry)]
    return "; ".join(part for part in parts if part)


def _print_task(spec: TaskSpec) -> None:
    _print_title(spec.name, spec.summary)
    facts = {"decoding": _describe_decoding(spec)}
    if spec.labels.relabel or spec.labels.erosion:
        erosion = f"eroded by {spec.labels.erosion}" if spec.labels.erosion else ""
        facts["labels"] = ", ".join(filter(None, ("relabelled" if spec.labels.relabel else "", erosion)))
    if spec.affinities is not None:
        facts["affinities"] = f"offsets along {spec.affinities.axes}, stored at their {spec.affinities.edge_stored_at}"
    print_facts({**facts, "metrics": ", ".join(spec.metrics)})
    print_line()
    print_table(
        ("channel", "activation", "target", "losses"),
        [
            (
                channel.name,
                channel.activation,
                _describe_target(channel.target),
                " + ".join(f"{loss.weight:g} {loss.kind}" for loss in channel.losses) or "-",
            )
            for channel in spec.channels
        ],
    )


def _describe_decoding(spec: TaskSpec) -> str:
    """The method and its settings."""
    values = spec.decode.model_dump(mode="json", exclude_none=True, exclude={"method"})
    steps = [f"{name} {value}" for name, value in values.items()]
    return f"{spec.decode.method} ({', '.join(steps)})" if steps else spec.decode.method


def _describe_target(target: TargetSpec) -> str:
    """The kind of target with what it needs."""
    if target.kind == "affinity":
        return f"affinity {list(target.offset or ())}, {'attractive' if target.attractive else 'repulsive'}"
    if target.kind == "lsd":
        return f"lsd {target.component}, sigma {target.sigma_nm:g} nm"
    return target.kind


def _print_experiment(spec: ExperimentSpec) -> None:
    from connectomics_zoo.schema.experiment import REQUIRED

    _print_title(spec.name, spec.summary)
    document = spec_document(spec)
    changed = {**document["arch"], **document["training"]}
    changed |= {} if spec.threshold is None else {"threshold": spec.threshold}
    facts = {"model": spec.model, "task": spec.task, **_first_weights(spec), "changes": _listed(changed) or "none"}
    if spec.data.root == REQUIRED:
        facts["start"] = f"zoo train {spec.name} data.root=FOLDER"
    print_facts(facts)
    _print_volumes(spec.data)


def _print_run(spec: RunSpec) -> None:
    _print_title(spec.name, f"A run of {spec.model.reference} for {spec.task.name}.")
    window = " × ".join(map(str, spec.prediction.window or ()))
    one = spec.prediction.views == "one"
    views = "" if one else f", views {spec.prediction.views} merged by {spec.prediction.merge}"
    facts = {
        "model": spec.model.reference,
        "task": spec.task.name,
        **_first_weights(spec),
        "training": _listed(spec.training.model_dump(mode="json")),
        **({"validation": _VALIDATION} if spec.data.validation else {}),
        **({} if spec.trained_on is None else {"trained on": spec.trained_on}),
        "prediction": f"window {window}, overlap {spec.prediction.overlap:g}{views}",
        "versions": _listed(spec.versions),
    }
    print_facts(facts)
    _print_volumes(spec.data)


def _first_weights(spec: ExperimentSpec | RunSpec) -> dict[str, str]:
    return {} if spec.init_from is None else {"starts from": spec.init_from}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _print_volumes(data: DataSpec) -> None:
    rows = []
    for use, pairs in (("train", data.train), ("validation", data.validation)):
        for pair in pairs:
            limits = pair.region.model_dump(exclude_none=True)
            region = ", ".join(f"{axis} {first} to {last - 1}" for axis, (first, last) in limits.items())
            rows.append((use, pair.image, pair.label_text, region or "all"))
    if rows:
        print_line()
        print_table(("use", "image", "label", "region"), rows)


def _print_changes(spec: Spec, declared: Spec) -> None:
    if spec is declared:
        return
    from connectomics_zoo.specs.diff import diff_specs

    differences = diff_specs(declared, second=spec).differences
    rows = [
        (item.path, _value(item.before), _value(item.after))
        for item in differences
        if not item.path.startswith("expect.")
    ]
    print_line()
    print_table(("changed field", "declared", "here"), rows)


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def _print_title(title: str, summary: str) -> None:
    print_text(title, bold=True)
    print_text(summary)
    print_line()
