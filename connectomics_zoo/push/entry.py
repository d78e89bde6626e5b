"""The `weights:` entry of a spec: made from what was measured, and written into the file of the spec."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import OutputError, SpecError, WeightsError
from connectomics_zoo.files.changes import FileChange, write_changes
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml, read_yaml
from connectomics_zoo.files.yaml_blocks import find_block, replace_block
from connectomics_zoo.push.provenance import describe_dataset, describe_recipe, describe_split
from connectomics_zoo.push.trained import Trained
from connectomics_zoo.runs.folder import WEIGHTS_FILE
from connectomics_zoo.schema.model import ModelSpec, Probe, WeightsEntry
from connectomics_zoo.schema.validation import validate


def package_entry(
    trained: Trained,
    *,
    sha256: str,
    size: int,
    probe: Probe,
    scores: Mapping[str, float],
    file: str = WEIGHTS_FILE,
) -> WeightsEntry:
    """Return the entry of weights that lie beside the spec; `scores` are stated beside those of the training."""
    model = trained.public.model
    return WeightsEntry(
        source="package",
        file=file,
        sha256=sha256,
        size=size,
        input_channels=model.input.channels,
        output_channels=model.outputs[0].channels,
        task=trained.public.task.name,
        dataset=describe_dataset(trained),
        license=trained.license,
        split=describe_split(trained),
        recipe=describe_recipe(trained),
        seed=trained.public.training.seed,
        metrics=rounded({**trained.metrics, **scores}),
        probe=probe,
    )


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores with the digits that a spec states."""
    return {name: float(f"{value:.6g}") for name, value in scores.items()}


def hub_entry(entry: WeightsEntry, *, repo: str, revision: str) -> WeightsEntry:
    """Return the entry of the same weights in a commit on the Hub."""
    place = {"source": "hub", "repo": repo, "revision": revision, "file": WEIGHTS_FILE}
    return WeightsEntry.model_validate({**entry.model_dump(), **place})


def plain_entry(entry: WeightsEntry) -> dict[str, Any]:
    """Return the entry as it stands in a spec."""
    return entry.model_dump(mode="json", exclude_none=True)


def read_own_spec(path: Path, trained: Trained) -> ModelSpec:
    """Return the spec in the file `path`, to which an entry is to be added.

    Raises:
        SpecError: it cannot be read, or is not the model of the run.
    """
    spec = validate(ModelSpec, read_yaml(path), source=str(path))
    model = trained.public.model
    for field, theirs, ours in (
        ("name", spec.name, model.name),
        ("version", spec.version, model.version),
        ("builder", spec.builder, model.builder),
        ("arch", spec.arch, model.arch),
    ):
        if theirs != ours:
            values = "" if field == "arch" else f" ({theirs}, and the run's is {ours})"
            raise SpecError(
                f"{path}: is not the spec of the model that was trained, its {field} differs{values}: give that of "
                f"{model.reference}."
            )
    return spec


def refuse_other_weights(spec: ModelSpec, tag: str, *, sha256: str, repo: str | None) -> None:
    """Refuse a tag that `spec` has already for other weights, or for the same ones in another place.

    Raises:
        WeightsError: it has.
    """
    known = spec.weights.get(tag)
    if known is not None and (known.sha256, known.repo) != (sha256, repo):
        raise WeightsError(
            f"{spec.name} has weights {tag!r} already, and they are others (sha256 {known.sha256[:12]}…, now "
            f"{sha256[:12]}…): give yours another tag with --name."
        )


def write_entry(path: Path, tag: str, entry: WeightsEntry) -> bool:
    """Write the entry into the spec file `path`, of which all else stays as it is; return whether that changed it.

    Raises:
        SpecError: the file's `weights` or `source` are not keys of their own lines.
        OutputError: it cannot be written.
    """
    changed = changed_text(path, tag, entry)
    if changed is None:
        return False
    write_changes([FileChange(path.resolve(), changed, (f"weights.{tag}",))])
    return True


def changed_text(path: Path, tag: str, entry: WeightsEntry) -> str | None:
    """Return the text that the spec file `path` has with the entry, None where it has it already.

    Raises:
        SpecError: the file's `weights` or `source` are not keys of their own lines.
        OutputError: its folder cannot be written.
    """
    text = path.read_bytes().decode("utf-8")
    spec = validate(ModelSpec, parse_yaml(text, source=str(path)), source=str(path))
    if spec.weights.get(tag) == entry:
        return None
    if not os.access(path.resolve().parent, os.W_OK):
        raise OutputError(f"{path}: its folder cannot be written, give a spec in a writable place.")
    wanted = spec.model_copy(update={"weights": {**spec.weights, tag: entry}})
    changed = _with_entry(text, spec, tag, entry)
    try:
        right = validate(ModelSpec, parse_yaml(changed, source=str(path)), source=str(path)) == wanted
    except SpecError:
        right = False
    if not right:
        raise SpecError(
            f"{path}: the entry cannot be put into a file of this style: write weights: and source: as plain keys on "
            "lines of their own."
        )
    return changed


def _with_entry(text: str, spec: ModelSpec, tag: str, entry: WeightsEntry) -> str:
    """Return the text of the spec's file with the entry."""
    ending = "\r\n" if "\r\n" in text else "\n"
    everything = {key: plain_entry(value) for key, value in {**spec.weights, tag: entry}.items()}
    block = dump_yaml({"weights": everything}).replace("\n", ending)
    lines = (text if text.endswith("\n") else text + ending).splitlines(keepends=True)
    if not any(line.startswith("weights:") for line in lines):
        first, _ = find_block(text, "source")
        return "".join([*lines[:first], block, *lines[first:]])
    first, end = find_block(text, "weights")
    rows = [line for line in lines[first + 1 : end] if line.strip() and not line.lstrip().startswith("#")]
    if tag in spec.weights or not rows or lines[first].partition("#")[0].strip() != "weights:":
        return replace_block(text, "weights", block)
    # The other entries stay as they were written.
    indent = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    own = textwrap.indent(dump_yaml({tag: plain_entry(entry)}), indent).replace("\n", ending)
    return "".join([*lines[:end], own, *lines[end:]])
