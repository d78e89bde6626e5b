"""The text that lies in a package: what the network is for, how it is used, whose it is."""

from __future__ import annotations

from connectomics_zoo.export.exported import Exported
from connectomics_zoo.export.packages.facts import Citation, Facts


def readme(exported: Exported, facts: Facts) -> str:
    """Return the documentation of a package, in Markdown."""
    parts = [
        f"# {facts.name}",
        facts.summary,
        "## Input",
        _input(exported, facts),
        "## Output",
        _output(exported, facts),
        "## Validation",
        _validation(facts),
        "## Licence and credit",
        _credit(facts),
        "## Citation",
        "\n".join(f"- {_cited(one)}" for one in facts.citations),
        "## Where it is from",
        "\n".join(f"- {key}: {value}" for key, value in exported.provenance.items()),
    ]
    return "\n\n".join(parts) + "\n"


def licence_text(facts: Facts) -> str:
    """Return what is known of the licence, for a file of its own."""
    if facts.license is None:
        return "The licence of these weights is not stated: ask their owner before you use or share them.\n"
    identifier = facts.license.replace(" ", "-")
    credit = "" if facts.attribution is None else f"\nCredit for the data: {facts.attribution}\n"
    return (
        f"These weights are under the licence {facts.license}; identifiers are those of SPDX, whose list has the text "
        f"(https://spdx.org/licenses/{identifier}.html).\n{credit}"
    )


def intensity_text(facts: Facts) -> str:
    """Return how grey values are scaled before the network sees them."""
    if facts.intensity_range is None:
        return (
            "The network takes grey values in 0..1. 8-bit values are divided by 255; scale others to 0..255 "
            "first, black to white of their type."
        )
    low, high = facts.intensity_range
    return f"The network takes grey values in 0..1: {low:g} is 0, {high:g} is 1, what is outside is clipped."


def _input(exported: Exported, facts: Facts) -> str:
    axes = exported.spec.input.axes
    lines = [
        f"A volume of electron microscopy, axes ({', '.join(axes)})." if len(axes) == 3 else "A section.",
        intensity_text(facts),
        f"Sizes: {exported.sizes.describe()} voxels along {', '.join(axes)}, n = 0, 1, 2, …",
    ]
    if facts.voxel_size_nm is not None:
        edges = " x ".join(f"{edge:g}" for edge in facts.voxel_size_nm)
        lines.append(f"Voxels of {edges} nm ({', '.join(axes)}) were seen in training: resample others to that.")
    if exported.run is not None:
        window = " x ".join(map(str, exported.run.window))
        lines.append(f"Trained and scored with windows of {window} voxels; others may do worse.")
    return "\n".join(lines)


def _output(exported: Exported, facts: Facts) -> str:
    task = exported.task
    if task is None:
        return f"Logits of {len(facts.channels)} channel(s); nothing says of what."
    lines = [f"- {channel.name} ({channel.activation}): {channel.target.kind}" for channel in task.channels]
    if task.affinities is not None:
        lines = [
            f"{line}, offset {channel.target.offset} in {task.affinities.axes}, stored at the "
            f"{task.affinities.edge_stored_at}"
            if channel.target.kind == "affinity"
            else line
            for line, channel in zip(lines, task.channels, strict=True)
        ]
    settings = ", ".join(f"{name} {value}" for name, value in task.decode.settings().items())
    return "\n".join([*lines, "", f"Decoded by {task.decode.method}{f' ({settings})' if settings else ''}."])


def _validation(facts: Facts) -> str:
    scores = "\n".join(f"- {name}: {value:.4f}" for name, value in facts.metrics.items())
    split = f"{facts.split[:1].upper()}{facts.split[1:]}." if facts.split else "The parts of the data are not stated."
    how = (
        "On your own data: predict a volume that has labels, and compare, such as by `zoo predict` and `zoo "
        "evaluate` of connectomics-zoo."
    )
    return "\n\n".join(part for part in (split, scores, how) if part)


def _credit(facts: Facts) -> str:
    credit = "" if facts.attribution is None else f"\n\nCredit for the data: {facts.attribution}"
    return f"Weights: {facts.license or 'not stated'}.{credit}"


def _cited(one: Citation) -> str:
    address = f"https://doi.org/{one.doi}" if one.doi else one.url
    return f"{one.text}: {address}" if address else one.text
