"""What a package tells a stranger about a trained network: what it is, whose, of which data, and how it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.export.exported import Exported
from connectomics_zoo.schema.task import TaskSpec
from connectomics_zoo.weights.pretrained import Pretrained

_DOI = re.compile(r"10\.\d{4,9}/[^\s,;]*[^\s,;.]")

_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")

_OURS = "The connectomics-zoo developers"


class Citation(NamedTuple):
    """A work to cite."""

    text: str
    """What it is."""
    doi: str | None
    """Its DOI, where it has one."""
    url: str | None
    """Its address, where it has one."""


@dataclass(frozen=True)
class Facts:
    """What is known of a trained network and its weights."""

    name: str
    """Model and run."""
    summary: str
    """Model and task, a sentence each."""
    authors: tuple[str, ...]
    """Who gives the weights away, as far as their reference says it."""
    license: str | None
    """Licence of the weights, or else that of the data that they were trained on."""
    attribution: str | None
    """Whom to credit for the data."""
    citations: tuple[Citation, ...]
    """The paper of the network, and the data where its attribution has an address."""
    voxel_size_nm: tuple[float, ...] | None
    """Edges of a voxel that the network saw in training, along its axes."""
    intensity_range: tuple[float, float] | None
    """Grey values that become 0 and 1; None for the range of the data's integer type."""
    channels: tuple[str, ...]
    """Names of the output channels."""
    metrics: dict[str, float]
    """Scores on validation data, where the catalogue declares them."""
    split: str | None
    """What was trained and what was scored on."""


def facts_of(exported: Exported, *, format: str) -> Facts:
    """Return what a package of the format `format` says.

    Raises:
        WeightsError: the network has initial weights, which nobody can use.
    """
    trained, run, spec = exported.trained, exported.run, exported.spec
    if trained is None:
        one = f", such as {spec.name}.{next(iter(spec.weights))}" if spec.weights else ""
        raise WeightsError(
            f"{exported.reference}: has initial weights, and a package of the format {format} is of trained ones: give "
            f"a reference with weights{one}, or a run folder."
        )
    entry, data = trained.entry, None if run is None else run.data
    attribution = entry.dataset if entry is not None else None if data is None else data.attribution
    voxel_nm = None if data is None else data.network_voxel_nm
    task = "" if exported.task is None else f" {exported.task.summary}"
    return Facts(
        name=spec.name if run is None or run.name == spec.name else f"{spec.name} {run.name}",
        summary=spec.summary + task,
        authors=_authors(trained),
        license=entry.license if entry is not None else None if data is None else data.license,
        attribution=attribution,
        citations=tuple(_citations(exported, attribution)),
        voxel_size_nm=None if voxel_nm is None else voxel_nm[-len(spec.input.axes) :],
        intensity_range=None if data is None else data.intensity_range,
        channels=channel_names(exported.task, spec.outputs[0].channels),
        metrics={} if entry is None else dict(entry.metrics),
        split=None if entry is None else entry.split,
    )


def channel_names(task: TaskSpec | None, channels: int) -> tuple[str, ...]:
    """Return what the output channels are called: as the task has them, or numbered where none is known."""
    if task is not None and len(task.channels) == channels:
        return tuple(channel.name for channel in task.channels)
    return tuple(f"channel_{index}" for index in range(channels))


def _authors(trained: Pretrained) -> tuple[str, ...]:
    """Return who gives the weights away: a catalogue, or the owner of a repository; nobody is guessed."""
    if trained.name.startswith("hf://"):
        return (trained.name.removeprefix("hf://").partition("/")[0],)
    if trained.entry is None:
        return ()
    catalog = trained.name.partition(":")[0] if ":" in trained.name else "zoo"
    return (_OURS if catalog == "zoo" else catalog,)


def _citations(exported: Exported, attribution: str | None) -> list[Citation]:
    source = exported.spec.source
    doi = _DOI.search(source.url) or _DOI.search(source.bibtex or "")
    arxiv = _ARXIV.search(source.url)
    identifier = doi[0].rstrip("},") if doi else f"10.48550/arXiv.{arxiv[1]}" if arxiv else None
    found = [Citation(source.paper, identifier, source.url if source.url.startswith("http") else None)]
    data_doi = _DOI.search(attribution or "")
    if attribution is not None and data_doi is not None:
        found.append(Citation(f"The data: {attribution}", data_doi[0], None))
    return found
