"""Where the file to convert lies: on this disk, or in one commit of a repository on the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from connectomics_zoo.errors import HubError, UnknownNameError, WeightsError
from connectomics_zoo.hub import HubReference, fetch_weights, pin
from connectomics_zoo.schema.limits import MAX_WEIGHTS_BYTES
from connectomics_zoo.specs.reference import parse_reference

_HUB = re.compile(r"(?P<repository>hf://[^/]*/[^/:@]*(?:@[^/:]*)?)(?:[/:](?P<file>.*))?")
"""`hf://org/repo@revision/file`; others write a colon in front of the file, which means the same."""

_FILE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""A path in a repository, which leads nowhere else."""


class Source(NamedTuple):
    """A file to convert."""

    path: Path
    """The file on this disk."""
    name: str
    """What it was called: its path, or its reference to the Hub."""


def find_source(file: str | Path) -> Source:
    """Return where `file` is, a path or `hf://org/repo@commit/file`, which is downloaded and checked.

    Raises:
        WeightsError: it is on the Hub and not of one commit, or no safetensors file.
        UnknownNameError: it is no reference to the Hub, though it begins so.
        HubError: it cannot be had from there, or is not what it should be.
    """
    if not str(file).startswith("hf:"):
        return Source(Path(file), str(file))
    reference = _parse(str(file))
    if not reference.is_pinned:
        raise _unpinned(reference)
    return Source(fetch_weights(reference, max_bytes=MAX_WEIGHTS_BYTES), str(reference))


def _parse(text: str) -> HubReference:
    match = _HUB.fullmatch(text)
    file = None if match is None else match["file"]
    if match is None or (file is not None and not _FILE.fullmatch(file)):
        raise UnknownNameError(
            f"{text!r} is no file on the Hub, write hf://org/repo@commit/file.safetensors, the commit with 40 digits."
        )
    hub = parse_reference(match["repository"]).hub
    assert hub is not None
    return hub._replace(file=file)


def _unpinned(reference: HubReference) -> WeightsError:
    """Return the error for what can be another file tomorrow, with the commit that it is today."""
    moving = "a branch or tag" if reference.revision else "the main branch"
    place = reference._replace(revision="COMMIT")
    try:
        advice = f"write {pin(reference)}, which it is now"
    except HubError:  # no answer, or no such repository: the form is advice enough
        advice = f"write {place}, with the 40 digits of a commit"
    return WeightsError(f"{reference}: {moving} moves, and what is converted is pinned: {advice}.")
