"""`WeightsLock`: exactly which files a project uses, for machines that must not use any other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from connectomics_zoo.schema.base import Name, Node, RepoId, Revision, Sha256
from connectomics_zoo.schema.limits import MAX_WEIGHTS_BYTES

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class LockedNetwork(Node):
    """What determines a network, complete with the defaults of the time when it was locked."""

    builder: Name
    """The builder."""
    arch: dict[str, Any]
    """Its configuration."""
    input: dict[str, Any]
    """What the network takes."""
    outputs: list[dict[str, Any]]
    """What it returns."""


class LockedWeights(Node):
    """One weights file."""

    source: Literal["package", "hub"]
    """`package`: beside the spec of an installed catalogue; `hub`: in a repository of the Hugging Face Hub."""
    repo: RepoId | None = None
    """Repository on the Hub, `org/name`."""
    revision: Revision | None = None
    """Its commit."""
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors$")]
    """File name."""
    size: Annotated[int, Field(ge=1, le=MAX_WEIGHTS_BYTES)]
    """Its bytes."""
    sha256: Digest
    """Its digest."""
    network: LockedNetwork | Sha256
    """The network that they are of: the same weights in another compute nonsense. 0.1.0 wrote a digest instead, which
    covers the recipe and what was measured as well."""
    spec_sha256: Digest | None = None
    """Digest of the spec in the repository, where that is what describes the network."""

    @model_validator(mode="after")
    def _complete_place(self) -> LockedWeights:
        if (self.source == "hub") != (self.repo is not None and self.revision is not None):
            raise ValueError("source hub needs repo and revision, and source package has neither")
        return self


class WeightsLock(Node):
    """All weights files of a project by reference; `zoo lock` writes it."""

    lock_version: Literal[1, 2]
    """Version of this format; 0.1.0 wrote 1, where every network is a digest."""
    weights: dict[Annotated[str, StringConstraints(min_length=1, max_length=400)], LockedWeights]
    """By reference: `name@1.0.0.tag`, or `hf://org/repo@…` as it was asked for."""
