"""What makes two networks the same."""

from __future__ import annotations

from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.releases import content, digest


def network_digest(spec: ModelSpec) -> str:
    """Return a digest of all that determines the network of `spec`."""
    return digest(content(spec))


def is_same_network(first: ModelSpec, second: ModelSpec) -> bool:
    """Return whether two specs are of the same network, whatever else they say."""
    fields = ("builder", "arch", "input", "outputs")
    return all(getattr(first, name) == getattr(second, name) for name in fields)
