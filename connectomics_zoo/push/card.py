"""The model card: metadata for the Hub, usage that works when pasted, and declared beside measured numbers."""

from __future__ import annotations

import json
import re
import shlex

from huggingface_hub import EvalResult, ModelCardData

from connectomics_zoo.hub import HubReference
from connectomics_zoo.push.folder import PICTURE_FILE
from connectomics_zoo.push.licences import hub_licence, licence_meaning
from connectomics_zoo.push.measured import Measured
from connectomics_zoo.push.provenance import describe_dataset, describe_part, describe_recipe, describe_split
from connectomics_zoo.push.trained import Trained
from connectomics_zoo.runs.folder import (
    CURVE_FILE,
    METRICS_FILE,
    PROVENANCE_FILE,
    SPEC_FILE,
    TUNED_FILE,
    WEIGHTS_FILE,
)
from connectomics_zoo.schema.experiment import PredictionSpec
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.tasks.activations import SCALE
from connectomics_zoo.volumes.voxel_size import FAR_FROM_TRAINED, lengths

LIBRARY = "connectomics-zoo"
_PIPELINE = "image-segmentation"

_ACTIVATIONS = {
    "sigmoid": "{}.sigmoid()",
    "scaled_sigmoid": f"({SCALE:g} * {{}}).sigmoid()",
    "softmax": "{}.softmax(dim=1)",
    "tanh": "{}.tanh()",
    "none": "{}",
}
"""The code of each activation, as `activate` computes it."""


def card_text(
    trained: Trained,
    measured: Measured,
    *,
    repo: str | None,
    revision: str | None,
    size: int,
    has_curve: bool,
) -> str:
    """Return the model card.

    Args:
        trained: what is given away.
        measured: what was measured of it.
        repo: the repository, `org/name`, None where that is not known yet.
        revision: the commit that holds the weights, None where that is not known yet.
        size: bytes of the weights.
        has_curve: whether the curve of the training lies beside the card.
    """
    run = trained.public
    title = f"{run.model.name}: {run.name}"
    parts = [
        f"---\n{_metadata(trained, repo=repo or run.name).to_yaml()}\n---\n",
        f"# {title}\n",
        _introduction(trained),
        _usage(trained, repo=repo, revision=revision, size=size),
        _numbers(trained, measured),
        _pictures(measured, has_curve=has_curve),
        _origin(trained),
        _licence(trained),
        _limits(trained),
        _citation(trained),
    ]
    return "\n".join(part for part in parts if part)


def _metadata(trained: Trained, *, repo: str) -> ModelCardData:
    run = trained.public
    identifier, name = hub_licence(trained.license)
    results = [
        EvalResult(
            task_type=_PIPELINE,
            task_name=run.task.summary.rstrip("."),
            dataset_type=_slug(run.name),
            dataset_name=describe_dataset(trained),
            dataset_split=", ".join(describe_part(pair) for pair in run.data.validation),
            metric_type=metric.partition("/")[2] or metric,
            metric_name=f"{metric} (measured in training)",
            metric_value=float(f"{value:.4g}"),
        )
        for metric, value in trained.metrics.items()
        if run.data.validation
    ]
    return ModelCardData(
        license=identifier,
        license_name=name,
        library_name=LIBRARY,
        pipeline_tag=_PIPELINE,
        tags=[
            LIBRARY,
            "connectomics",
            "electron-microscopy",
            "volume-electron-microscopy",
            "3d-segmentation",
            _slug(run.model.family),
            _slug(run.model.name),
            _slug(run.task.name),
        ],
        model_name=repo.rpartition("/")[2],
        eval_results=results or None,
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _introduction(trained: Trained) -> str:
    run = trained.public
    channels = ", ".join(f"{channel.name} ({channel.activation})" for channel in run.task.channels)
    return (
        f"{run.model.summary} Trained for this task: {_uncapitalised(run.task.summary)} "
        f"Output channels: {channels}.\n\n"
        f"`{SPEC_FILE}` is the complete spec of the network and of its training, and lies in the metadata of "
        f"`{WEIGHTS_FILE}` too; `{PROVENANCE_FILE}` says where the weights come from.\n"
    )


def _uncapitalised(sentence: str) -> str:
    """Return a sentence as it stands after a colon; a name in capitals stays."""
    return sentence if sentence[:2].isupper() else sentence[:1].lower() + sentence[1:]


def _usage(trained: Trained, *, repo: str | None, revision: str | None, size: int) -> str:
    model = trained.public.model
    reference = str(HubReference(repo or "ORG/NAME", revision or "REVISION", None))
    shape = ", ".join(map(str, (1, model.input.channels, *trained.public.window)))
    network = ", ".join(map(str, (1, model.outputs[0].channels, *model.input.given(trained.public.window))))
    axes = ", ".join(model.input.axes.upper())
    pull = (
        f"\n`REVISION` stands for the commit, 40 hexadecimal digits: `zoo pull hf://{repo or 'ORG/NAME'}` prints the "
        "reference with it. A branch or tag is not taken, since it can move.\n"
        if revision is None
        else ""
    )
    offline = (
        f"Every byte is checked against the commit. Without network: `zoo pull {reference} --to FOLDER` where there is "
        "one, then load `FOLDER`."
    )
    return f"""## Use

With the Python package connectomics-zoo installed:

```python
import torch
import zoo

network = zoo.load("{reference}")  # {_megabytes(size)} once, then from the cache; in evaluation mode

volume = torch.rand({shape})  # (B, C, {axes}), grey values scaled to 0..1
with torch.no_grad():
    logits = network(volume)  # ({network})
{_activation(trained.public.task)}```

A whole volume on disk, of any size, window by window:

```console
$ zoo predict {reference} volume.h5:raw prediction.h5
{_decoding(trained)}{pull}
{offline}
"""


def _activation(task: TaskSpec) -> str:
    """Return the lines from logits to values: one for all channels, or one for each activation."""
    kinds = {
        channel.activation: [item.name for item in task.channels if item.activation == channel.activation]
        for channel in task.channels
    }
    name = "values" if {"tanh", "none"} & kinds.keys() else "probabilities"
    if len(kinds) == 1:
        ((kind, channels),) = kinds.items()
        return f"{name} = {_ACTIVATIONS[kind].format('logits')}  # channels: {', '.join(channels)}\n"
    lines = [f"{name} = logits.clone()"]
    for kind, channels in kinds.items():
        part = f"[:, {[index for index, item in enumerate(task.channels) if item.activation == kind]}]"
        code = f"{name}{part} = {_ACTIVATIONS[kind].format(f'logits{part}')}"
        lines.append(f"{code}  # {', '.join(channels)}")
    return "\n".join(lines) + "\n"


def _decoding(trained: Trained) -> str:
    """Return the end of the commands for a whole volume: the line that makes objects, where the task has some."""
    tuned = trained.public_tuned
    if tuned is None:
        if not trained.public.task.decode.is_instances:
            return "```\n"
        return (
            "$ zoo decode prediction.h5 objects.h5\n```\n\n"
            "`zoo decode` makes objects, each with a label of its own; the prediction says how.\n"
        )
    settings = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in tuned.decode.settings().items()]
    part = f" {tuned.region}" if tuned.region else ""
    return (
        f"$ zoo decode prediction.h5 objects.h5 --method {tuned.decode.method} {shlex.join(settings)}\n```\n\n"
        f"`zoo decode` makes objects, each with a label of its own. These settings, in `{TUNED_FILE}` too, were tuned "
        f"on {tuned.truth}{part}: adapted Rand error {tuned.adapted_rand_error:.4f}, variation of information "
        f"{tuned.voi:.3f} bits there.\n"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _numbers(trained: Trained, measured: Measured) -> str:
    expect = trained.public.model.expect
    assert expect is not None
    rows = [
        ("parameters in training", f"{expect.parameters.training:,}", f"{measured.parameters.training:,}"),
        ("parameters in inference", f"{expect.parameters.inference:,}", f"{measured.parameters.inference:,}"),
        ("fingerprint of the state dict", _short(expect.fingerprint), _short(measured.fingerprint)),
    ]
    shape = " x ".join(map(str, measured.probe.input_shape))
    for name, output in measured.probe.outputs.items():
        rows.append((f"probe: root mean square of `{name}` for the seeded input {shape}", "—", f"{output.rms:g}"))
    for name in {**trained.metrics, **measured.scores}:
        before = f"{trained.metrics[name]:.4f}" if name in trained.metrics else "—"
        again = f"{measured.scores[name]:.4f}" if name in measured.scores else "not measured again"
        rows.append((f"`{name}`", before, again))
    lines = [f"| {name} | {declared} | {found} |" for name, declared, found in rows]
    source = f"Declared: `{SPEC_FILE}`, and for scores `{METRICS_FILE}`, written in training."
    return "\n".join(
        [
            "## Declared, and measured",
            "",
            f"{source} Measured: from the files here, when they were pushed, in float32; scores of voxels as "
            "validation in training measures them, on the voxels of the network.",
            "",
            "| | declared | measured |",
            "| --- | --- | --- |",
            *lines,
            "",
        ]
    )


def _short(digest: str) -> str:
    return f"`{digest[:19]}…`"


def _pictures(measured: Measured, *, has_curve: bool) -> str:
    parts = []
    if measured.has_picture:
        parts += [
            "## A prediction beside the truth",
            "",
            f"![Image, truth, prediction and errors on validation data]({PICTURE_FILE})",
            "",
        ]
    if has_curve:
        parts += [f"![Loss and score over the steps of the training]({CURVE_FILE})", ""]
    return "\n".join(parts)


def _origin(trained: Trained) -> str:
    run = trained.public
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    decay, prediction = run.training.ema_decay, run.prediction
    facts = [
        ("data", describe_dataset(trained)),
        ("split", describe_split(trained)),
        ("started from", f"the weights `{run.init_from}`" if run.init_from is not None else ""),
        ("recipe", describe_recipe(trained)),
        ("weights", f"their running average over the steps, with a decay of {decay:g}" if decay > 0 else ""),
        ("views", _describe_views(prediction)),
        ("seed", str(run.training.seed)),
        ("trained with", versions),
    ]
    return "\n".join(["## Data and training", "", *(f"- {name}: {fact}" for name, fact in facts if fact), ""])


def _describe_views(prediction: PredictionSpec) -> str:
    """Return which views are predicted and merged, empty where each window is seen once."""
    if prediction.views == "one":
        return ""
    views = {"flips": "flips", "flips_and_turns": "flips and turns"}[prediction.views]
    return (
        f"`zoo predict` merges the {views} of each window by their {prediction.merge}; the Python code above does not"
    )


def _licence(trained: Trained) -> str:
    data = trained.public.data
    credit = f"Credit for the data: {data.attribution.rstrip('.')}.\n" if data.attribution else ""
    other = f"The data has the licence {data.license}.\n" if data.license and data.license != trained.license else ""
    code = trained.public.model.source
    return (
        f"## Licence\n\n{trained.license}, for the weights. {licence_meaning(trained.license)}\n{other}\n{credit}"
        f"The code of the network has its own: {code.license} ({code.code}).\n"
    )


def _limits(trained: Trained) -> str:
    run = trained.public
    model, data = run.model, run.data
    lines = []
    if data.voxel_size_nm is not None:
        voxel = " x ".join(f"{edge:g}" for edge in data.voxel_size_nm)
        lines.append(f"Trained on voxels of {voxel} nm (z, y, x): {_others(trained)}")
    elif data.network_voxel_size_nm is not None:
        lines.append(f"Trained on volumes of several voxel sizes: {_others(trained)}")
    else:
        lines.append("The voxel size of the data is not known: what it is good for has to be tried.")
    if max(data.downsample) > 1:
        factors = " x ".join(map(str, data.downsample))
        lines.append(
            f"The network sees the volume downsampled {factors}; `zoo predict` takes the volume as it is and does that."
        )
    lines.append(
        "Grey-value volumes of electron microscopy, as in the data above: other staining, contrast, tissue or "
        "microscope can give anything. Score it on labels of your own (`zoo evaluate`) before you rely on it."
    )
    window = " x ".join(map(str, run.window))
    lines.append(
        f"Windows of {window} network voxels, as in training: with others the results differ, by their context and by "
        f"norms that take statistics over the window. Legal are {model.input.size.describe()} "
        f"({', '.join(model.input.axes)})."
    )
    if not data.validation:
        lines.append("It was never scored on data that it was not trained on.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines), ""])


def _others(trained: Trained) -> str:
    """Return what is to be done with volumes of other voxels."""
    run = trained.public
    size = run.data.network_voxel_nm
    if run.task.affinities is not None or size is None:
        return "resample volumes whose voxels are others."
    return (
        f"`zoo predict` resamples volumes of any other size to the {lengths(size)} nm that the network sees, and the "
        f"prediction back; beyond a factor of {FAR_FROM_TRAINED:g} it warns, since tissue looks different there."
    )


def _citation(trained: Trained) -> str:
    source = trained.public.model.source
    text = f"## Citation\n\n{source.paper}: <{source.url}>\n"
    return text if source.bibtex is None else f"{text}\n```bibtex\n{source.bibtex.rstrip()}\n```\n"
