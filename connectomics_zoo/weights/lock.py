"""`zoo lock`: exactly which file the weights of a reference are."""

from __future__ import annotations

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.hub import pin, weights_name
from connectomics_zoo.schema.weights_lock import LockedWeights
from connectomics_zoo.specs.identity import network_digest
from connectomics_zoo.specs.lookup import spec_path
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.weights.match import refuse_misfit
from connectomics_zoo.weights.pretrained import find_pretrained


def lock_weights(ref: str) -> tuple[str, LockedWeights]:
    """Return the name of the weights that `ref` means, and exactly which file that is; one on the Hub is fetched.

    Raises:
        WeightsError: these are weights that no lock file can have, or there are none.
        ZooError: see `find_pretrained`.
    """
    reference = parse_reference(ref)
    if reference.path is not None:
        raise WeightsError(f"{ref}: only weights of a catalogue or on the Hub are locked, a path is what it is.")
    if reference.hub is None:
        found = find_pretrained(ref)
        assert found.entry is not None
        refuse_misfit(found.spec, found.path, source=found.name)
        entry = found.entry
        what = {"size": found.path.stat().st_size, "sha256": entry.sha256, "network": network_digest(found.spec)}
        place = {"source": entry.source, "repo": entry.repo, "revision": entry.revision, "file": entry.file}
        return found.name, LockedWeights.model_validate({**place, **what})
    hub = pin(reference.hub)
    name = weights_name(hub)
    found = find_pretrained(str(hub))
    refuse_misfit(found.spec, found.path, source=found.name)
    return str(reference.hub), LockedWeights(
        source="hub",
        repo=hub.repo,
        revision=hub.revision,
        file=name,
        size=found.path.stat().st_size,
        sha256=file_sha256(found.path),
        network=network_digest(found.spec),
        spec_sha256=file_sha256(spec_path(reference._replace(hub=hub))),
    )
