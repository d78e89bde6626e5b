"""What notebooks show of models and tasks: a title, a picture, and what there is to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectomics_zoo.schema.report import Page, Table, facts
from connectomics_zoo.schema.svg import scales

if TYPE_CHECKING:
    from connectomics_zoo.schema.model import ModelSpec
    from connectomics_zoo.schema.task import TaskSpec


def model_page(spec: ModelSpec) -> Page:
    """Return a model: its scales, how large it is, which sizes are legal, which weights there are, and whose it is."""
    told: dict[str, Any] = {"family": spec.family, "builder": spec.builder}
    if spec.expect is not None:
        counts, flops = spec.expect.parameters, spec.expect.flops
        told["parameters"] = f"{counts.training:,} in training, {counts.inference:,} in inference"
        if flops is not None:
            told["cost"] = f"{flops.total / 1e9:,.1f} GFLOPs at {' × '.join(map(str, flops.input_shape))}"
    told["input"] = f"{spec.input.channels} channel(s), axes {', '.join(spec.input.axes)}"
    told["legal sizes"] = f"{spec.input.size.describe()} voxels, n = 0, 1, 2, …"
    told["arch"] = spec.arch.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    for tag, entry in spec.weights.items():
        scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.metrics.items())
        told[f"weights {tag}"] = f"{entry.task}{f': {scores}' if scores else ''} ({entry.license})"
    told |= {
        "paper": spec.source.paper,
        "url": spec.source.url,
        "code": spec.source.code,
        "licence": spec.source.license,
    }
    outputs = [(output.stride, f"{output.channels} × {output.name}") for output in spec.outputs]
    return Page(f"{spec.name} {spec.version}", spec.summary, scales(outputs), facts(told))


def task_page(spec: TaskSpec) -> Page:
    """Return a task: what its channels are, how they are learned, decoded and scored."""
    rows = []
    for channel in spec.channels:
        target = channel.target.model_dump(mode="json", exclude_none=True)
        kind = target.pop("kind")
        details = ", ".join(f"{name} {value}" for name, value in target.items())
        losses = ", ".join(f"{loss.weight:g} {loss.kind}" for loss in channel.losses)
        rows.append((channel.name, channel.activation, kind + (f" ({details})" if details else ""), losses))
    settings = ", ".join(f"{name} {value}" for name, value in spec.decode.settings().items())
    said = f"{spec.summary} Decoded by {spec.decode.method}{f' ({settings})' if settings else ''}; scored by "
    return Page(
        spec.name,
        f"{said}{', '.join(spec.metrics)}.",
        "",
        Table(("channel", "activation", "target", "losses"), rows),
    )
