"""`zoo lock`: exactly which file the weights of a reference are."""

from __future__ import annotations

from typing import NamedTuple

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.hub import pin
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.weights_lock import LockedWeights
from connectomics_zoo.specs.identity import network_of
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.weights.lock_file import network_difference
from connectomics_zoo.weights.match import refuse_misfit
from connectomics_zoo.weights.pretrained import find_pretrained


class Lockable(NamedTuple):
    """Weights as a lock file has them."""

    name: str
    """Their name there."""
    weights: LockedWeights
    """Exactly which file, and of what network."""
    spec: ModelSpec
    """The spec of that network."""


def lock_weights(ref: str) -> Lockable:
    """Return exactly which file the weights that `ref` means are, and their name; one on the Hub is fetched.

    Raises:
        WeightsError: these are weights that no lock file can have, or there are none.
        ZooError: see `find_pretrained`.
    """
    reference = parse_reference(ref)
    if reference.path is not None:
        raise WeightsError(f"{ref}: only weights of a catalogue or on the Hub are locked, a path is what it is.")
    found = find_pretrained(reference if reference.hub is None else reference.at(pin(reference.hub)))
    refuse_misfit(found.spec, found.path, source=found.name)
    what = {"size": found.path.stat().st_size, "network": network_of(found.spec)}
    if found.entry is not None:
        entry = found.entry
        place = {"source": entry.source, "repo": entry.repo, "revision": entry.revision, "file": entry.file}
        weights = LockedWeights.model_validate({**place, **what, "sha256": entry.sha256})
        return Lockable(found.name, weights, found.spec)
    assert found.beside is not None
    hub = found.beside.reference.hub
    assert hub is not None
    place = {"source": "hub", "repo": hub.repo, "revision": hub.revision, "file": found.path.name}
    digests = {"sha256": file_sha256(found.path), "spec_sha256": file_sha256(found.beside.path)}
    return Lockable(str(reference.hub), LockedWeights.model_validate({**place, **what, **digests}), found.spec)


def is_news(found: Lockable, before: LockedWeights | None) -> bool:
    """Return whether a lock file that has `before` of these weights (None: nothing) would not let them be loaded.

    The same network may be written otherwise there: by 0.1.0, or before its builder gained a field.
    """
    if before is None or before != found.weights.model_copy(update={"network": before.network}):
        return True
    return network_difference(before, found.spec) is not None
