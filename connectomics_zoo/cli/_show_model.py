"""The sections of `zoo show` about a model, and about trained weights of one."""

from __future__ import annotations

from pathlib import Path

from connectomics_zoo.cli._describe import decoding, first_weights, network_voxels, recipe
from connectomics_zoo.cli._sections import Facts, Shown, Table, Title
from connectomics_zoo.cli._show_cost import cost_facts
from connectomics_zoo.errors import ZooError
from connectomics_zoo.schema.model import ModelSpec, OutputSpec, WeightsEntry
from connectomics_zoo.specs.embedded import run_in

# Of weights -----------------------------------------------------------------------------------------------------------


def weights_title(shown: Shown) -> Title:
    """Name the weights and what they are for."""
    _, entry = _weights(shown)
    return Title(shown.found.reference.text, f"Trained weights of {_model(shown).reference} for the task {entry.task}.")


def weights_facts(shown: Shown) -> Facts:
    """Say how good they are, of which data they come, and how they are used."""
    spec, (reference, entry) = _model(shown), _weights(shown)
    facts = {
        "scores": ", ".join(f"{name} {value:.4f}" for name, value in entry.metrics.items()) or "not stated",
        "data": entry.dataset,
        "split": entry.split or "not stated",
        "recipe": entry.recipe or "not stated",
        **_use(entry, shown.found.path.parent),
        "seed": "not stated" if entry.seed is None else str(entry.seed),
        "licence of the weights": entry.license,
        "channels": f"{entry.input_channels or spec.input.channels} in, "
        f"{entry.output_channels or spec.outputs[0].channels} out",
        "file": f"{entry.file}, {_place(entry)}" + ("" if entry.size is None else f", {entry.size / 1e6:.1f} MB"),
        "sha256": entry.sha256,
        "load": f'zoo.load("{reference}")',
        "model": f"{spec.name} {spec.version}: {spec.summary}",
    }
    behind_all = ("seed", "sha256") if not shown.all else ("model",)
    return Facts({name: text for name, text in facts.items() if name not in behind_all})


def _weights(shown: Shown) -> tuple[str, WeightsEntry]:
    reference = shown.found.reference
    assert reference.tag is not None, "these sections are for weights alone"
    return reference.text, _model(shown).weights[reference.tag]


def _use(entry: WeightsEntry, folder: Path) -> dict[str, str]:
    """Return what the spec in a file of weights says of their use; nothing where that is not in the package."""
    if entry.source != "package" or not (folder / entry.file).is_file():
        return {}
    try:
        run = run_in(folder / entry.file)
    except ZooError as error:
        return {"not to be used": str(error)}
    if run is None:
        return {}
    return {**first_weights(run), **network_voxels(run), "decoding": decoding(run.task)}


def _place(entry: WeightsEntry) -> str:
    return "in the package" if entry.source == "package" else f"hf://{entry.repo}@{entry.revision}"


# Of a model -----------------------------------------------------------------------------------------------------------


def model_title(shown: Shown) -> Title:
    """Name the model."""
    spec = _model(shown)
    return Title(f"{spec.name} {spec.version}", spec.summary)


def model_facts(shown: Shown) -> Facts:
    """Say how large the network is, what it takes, and whose it is."""
    spec = _model(shown)
    same = spec.family == spec.builder
    facts = {"family": spec.family if same else f"{spec.family}, builder {spec.builder}"}
    facts |= _sizes(spec) | cost_facts(spec, shown.found)
    facts["input"] = f"{spec.input.channels} channel(s), axes {', '.join(spec.input.axes)}"
    facts["legal sizes"] = f"{spec.input.size.describe()} voxels, n = 0, 1, 2, …"
    if spec.input.context is not None:
        margins = " × ".join(map(str, spec.input.context))
        smallest = " × ".join(map(str, spec.input.given(spec.input.size.minimum)))
        facts["context"] = f"{margins} voxels on each side of the input, of which nothing is said: {smallest} at least"
    if not shown.all:
        facts["output"] = _outputs(spec.outputs)
    facts |= {
        "training": recipe(spec.training),
        "paper": spec.source.paper,
        "url": spec.source.url,
        "code": spec.source.code,
        "licence": spec.source.license,
    }
    return Facts(facts)


def _sizes(spec: ModelSpec) -> dict[str, str]:
    if spec.expect is None:
        return {"parameters": "not measured for this network (zoo new measures them)"}
    counts, flops = spec.expect.parameters, spec.expect.flops
    sizes = {"parameters": f"{counts.training:,} in training, {counts.inference:,} in inference"}
    if flops is not None:
        shape = " × ".join(map(str, flops.input_shape))
        sizes["cost"] = f"{flops.total / 1e9:,.1f} GFLOPs at an input of {shape}"
    return sizes


def _outputs(outputs: tuple[OutputSpec, ...]) -> str:
    """The first output, and at which strides there are more of them in training."""
    first, *others = outputs
    text = f"{first.channels} channel(s)"
    return f"{text}, in training also at strides of {', '.join(map(_stride, others))}" if others else text


def _stride(output: OutputSpec) -> str:
    return "×".join(map(str, output.stride))


def model_outputs(shown: Shown) -> Table | None:
    """List the outputs with their weights in the loss."""
    if not shown.all:
        return None
    return Table(
        ("output", "channels", "stride", "loss weight"),
        [
            (output.name, str(output.channels), _stride(output), f"{output.loss_weight:g}")
            for output in _model(shown).outputs
        ],
    )


def model_weights(shown: Shown) -> Table | Facts:
    """List the trained weights: what for, how good, and whose."""
    weights = _model(shown).weights
    if not weights:
        return Facts({"weights": "none"})
    if not shown.all:
        rows = [(tag, entry.task, _scores(entry, most=1), entry.license) for tag, entry in weights.items()]
        return Table(("weights", "task", "score", "licence"), rows, most=8)
    return Table(
        ("weights", "task", "scores", "data", "licence", "place"),
        [
            (tag, entry.task, _scores(entry, most=None), entry.dataset, entry.license, _place(entry))
            for tag, entry in weights.items()
        ],
    )


def _scores(entry: WeightsEntry, *, most: int | None) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in list(entry.metrics.items())[:most]) or "-"


def _model(shown: Shown) -> ModelSpec:
    assert isinstance(shown.spec, ModelSpec), "these sections are for models alone"
    return shown.spec
