"""What a repository on the Hub has for us: a spec and a weights file, of one pinned commit."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from connectomics_zoo.errors import HubError, OutputError, WeightsError
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.safetensors import PICKLES
from connectomics_zoo.files.yaml import MAX_BYTES
from connectomics_zoo.hub.client import Commit, cache_folder, explained, find_commit
from connectomics_zoo.hub.download import fetch
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE


class HubReference(NamedTuple):
    """`hf://org/repo@revision/file`, of which the last two parts may be missing."""

    repo: str
    revision: str | None
    """A commit (40 hexadecimal digits), branch or tag."""
    file: str | None
    """The weights, where the repository has several."""

    @property
    def is_pinned(self) -> bool:
        """Whether it means one commit, for ever."""
        return self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


def pin(reference: HubReference) -> HubReference:
    """Return the reference with the commit that its branch or tag is now; asks the Hub unless it is pinned.

    Raises:
        HubError: there is no such repository or revision, or no answer.
    """
    if reference.is_pinned:
        return reference
    return reference._replace(revision=find_commit(reference.repo, reference.revision).revision)


def fetch_spec(reference: HubReference) -> Path:
    """Return the path of the spec in a repository, fetched and checked.

    Raises:
        HubError: the reference is not pinned, the file cannot be had, or is not what it should be.
    """
    revision = _pinned(reference)
    return fetch(reference.repo, revision, spec_name(reference), max_bytes=MAX_BYTES)


def fetch_weights(
    reference: HubReference, *, max_bytes: int, sha256: str | None = None, size: int | None = None
) -> Path:
    """Return the path of the weights in a repository, fetched and checked; see `download.fetch`.

    Raises:
        HubError: the reference is not pinned, the file cannot be had, or is not what it should be.
        WeightsError: the repository has none, or pickles only.
    """
    revision = _pinned(reference)
    name = weights_name(reference)
    if not name.endswith(".safetensors"):
        raise WeightsError(f"{reference}: only .safetensors is loaded, a pickle can run code when it is read.")
    return fetch(reference.repo, revision, name, max_bytes=max_bytes, sha256=sha256, size=size)


def weights_name(reference: HubReference) -> str:
    """Return the name of the weights that `reference` means in its repository; see `fetch_weights`."""
    with explained(str(reference)):
        return reference.file or _choose(reference, WEIGHTS_FILE, (".safetensors",), "weights file")


def spec_name(reference: HubReference) -> str:
    """Return the name of the spec in the repository of `reference`; see `fetch_spec`."""
    with explained(str(reference)):
        return _choose(reference, SPEC_FILE, (".yaml", ".yml"), "spec")


def _pinned(reference: HubReference) -> str:
    if reference.revision is not None and reference.is_pinned:
        return reference.revision
    moving = "a branch or tag" if reference.revision else "the main branch"
    try:
        now = pin(reference)
    except HubError as error:
        raise HubError(f"{error} Also, {moving} moves: write hf://{reference.repo}@ and a commit.") from None
    raise HubError(
        f"{reference}: {moving} moves, and weights are pinned: write {now}, which it is now, or keep that in a lock "
        f"file (zoo lock {reference})."
    )


def _choose(reference: HubReference, usual: str, endings: tuple[str, ...], what: str) -> str:
    """Return the file of its usual name, or the only one with such an ending.

    The Hub is asked where the usual one is not cached, and of a commit only once, since what it holds never changes.
    What the cache has of it is no answer, there may be more: a choice is kept when it was made, and it alone holds.
    """
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(reference.repo, usual, revision=reference.revision), str):
        return usual
    note = cache_folder(reference.repo) / ".zoo" / str(reference.revision) / usual
    kept = _kept(note) if reference.is_pinned else None
    if kept is not None and _can_be(kept, endings):
        return kept
    commit = find_commit(reference.repo, reference.revision)
    if usual in commit.files:
        return usual
    found = sorted(name for name in commit.files if name.endswith(endings) and "/" not in name)
    if len(found) != 1 or not _can_be(found[0], endings):
        raise _unclear(reference, commit, found, what=what, usual=usual)
    if reference.is_pinned:
        _keep(note, found[0])
    return found[0]


def _can_be(name: str, endings: tuple[str, ...]) -> bool:
    return name.endswith(endings) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", name) is not None


def _kept(note: Path) -> str | None:
    try:
        return note.read_text(encoding="ascii")
    except (OSError, ValueError):  # none, or damaged
        return None


def _keep(note: Path, name: str) -> None:
    with contextlib.suppress(OSError, OutputError):  # a cache that may only be read works without
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, name)


def _unclear(reference: HubReference, commit: Commit, found: list[str], *, what: str, usual: str) -> Exception:
    if found:
        names = ", ".join(found[:5])
        advice = f"name one: {reference}/{found[0]}" if usual == WEIGHTS_FILE else f"call the right one {usual}"
        return WeightsError(f"{reference}: has several files that could be the {what} ({names}), {advice}.")
    pickles = sorted(name for name in commit.files if name.endswith(PICKLES))
    if usual == WEIGHTS_FILE and pickles:
        return WeightsError(
            f"{reference}: has no .safetensors, and {pickles[0]} is a pickle, which can run code when it is read: "
            "download it if you trust it, and see zoo convert."
        )
    return WeightsError(f"{reference}: has no {what} ({usual}), only repositories with a spec and weights are loaded.")
