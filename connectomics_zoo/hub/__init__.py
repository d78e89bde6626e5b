"""The Hugging Face Hub: files of one commit, checked before anybody sees them; importing it imports no client."""

from connectomics_zoo.hub.client import Commit, RemoteFile, endpoint, explained, find_commit
from connectomics_zoo.hub.download import bars_on_terminals_only, fetch
from connectomics_zoo.hub.repository import HubReference, fetch_spec, fetch_weights, pin, spec_name, weights_name

__all__ = [
    "Commit",
    "HubReference",
    "RemoteFile",
    "bars_on_terminals_only",
    "endpoint",
    "explained",
    "fetch",
    "fetch_spec",
    "fetch_weights",
    "find_commit",
    "pin",
    "spec_name",
    "weights_name",
]
