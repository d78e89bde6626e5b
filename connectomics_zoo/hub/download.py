"""Fetches a file of a commit through the client's cache, and gives out nothing whose digest was not checked."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from connectomics_zoo.errors import HubError
from connectomics_zoo.files.digests import file_git_sha1, file_sha256
from connectomics_zoo.hub.client import explained
from connectomics_zoo.hub.patience import Patience
from connectomics_zoo.hub.turns import in_turn

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_log = logging.getLogger(__name__)


def fetch(
    repo: str, revision: str, file: str, *, max_bytes: int, sha256: str | None = None, size: int | None = None
) -> Path:
    """Return the path of `file` at the commit `revision` of `repo`, from the cache or the Hub, its content checked.

    A cached file needs no network. One that was damaged in the cache is fetched again. The digest is `sha256`, or
    what the Hub states for that commit, under which the cache keeps the file; a file that is not in git LFS has a
    git digest instead.

    Args:
        repo: `org/name`.
        revision: the commit, 40 hexadecimal digits.
        file: path in the repository.
        max_bytes: a larger file is refused before it is downloaded.
        sha256: the digest that it must have.
        size: the bytes that it must have.

    Raises:
        HubError: it cannot be had, or is not what it should be.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    subject = f"hf://{repo}@{revision}/{file}"
    with explained(subject):
        cached = _cached(repo, revision, file, subject=subject)
        if cached is not None and _is_right(cached, sha256=sha256, size=size):
            return cached
        if cached is not None:
            _log.warning("%s: the file in the cache is damaged and is not used, the Hub is asked for it again", subject)
        patience = Patience()
        stated = patience.ask(lambda: get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)))
        digest = _checked(stated, subject, revision, max_bytes=max_bytes, sha256=sha256, size=size)
        with in_turn(repo, digest, subject=subject):
            cached = _cached(repo, revision, file, subject=subject)  # what came meanwhile through another process
            if cached is not None and _is_right(cached, sha256=sha256, size=size):
                return cached
            if cached is not None:
                cached.unlink(missing_ok=True)  # the client keeps what has the name, link or copy
            return patience.ask(
                lambda: _download(subject, repo, revision, file, digest=digest, force=cached is not None)
            )


def _cached(repo: str, revision: str, file: str, *, subject: str) -> Path | None:
    """Return the cache's file, if it has it and it lies in the cache."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(found, str):
        return None
    # A link may lead on into the store that all repositories share, which is in the cache too.
    path, home = Path(found), Path(constants.HF_HUB_CACHE).resolve()
    if home not in path.resolve().parents:
        raise HubError(f"{subject}: the cache has a link to {path.resolve()}, outside of it: remove {path}.")
    return path


def _is_right(path: Path, *, sha256: str | None, size: int | None) -> bool:
    """Whether a cached file is the declared one, or else the one that the cache keeps under its digest."""
    try:
        if not path.is_file() or (size is not None and path.stat().st_size != size):
            return False
        # The first link's name is the digest; that of a file in the store that all share is a number of Xet's own.
        # Where the cache has copies instead of links, only a declared digest can tell.
        digest = sha256 or (path.readlink().name if path.is_symlink() else "")
        return _is_digest(digest) and _has_digest(path, digest)
    except FileNotFoundError:  # another process takes a damaged one away
        return False


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def _has_digest(path: Path, digest: str) -> bool:
    """Whether the file has that SHA-256 (64 digits) or, as git counts it, that SHA-1 (40 digits)."""
    return (file_sha256(path) if len(digest) == 64 else file_git_sha1(path)) == digest


def _checked(
    stated: HfFileMetadata, subject: str, revision: str, *, max_bytes: int, sha256: str | None, size: int | None
) -> str:
    """Return the digest that the file will have, after everything that the Hub states about it was checked."""
    if stated.commit_hash != revision:
        raise HubError(f"{subject}: the server answers with the commit {stated.commit_hash}, it is not to be trusted.")
    if size is not None and stated.size != size:
        raise HubError(f"{subject}: {stated.size} bytes, but {size} are declared: it is not the file that was meant.")
    if stated.size is None or stated.size > max_bytes:
        raise HubError(f"{subject}: {stated.size} bytes, at most {max_bytes} are expected here: it was not downloaded.")
    if sha256 is not None:
        if stated.etag is not None and len(stated.etag) == 64 and stated.etag != sha256:
            raise HubError(
                f"{subject}: its sha256 is {stated.etag[:12]}…, but {sha256[:12]}… is declared: it is not the file "
                "that was meant."
            )
        return sha256
    if stated.etag is None or not _is_digest(stated.etag):
        raise HubError(f"{subject}: the server states no digest for it ({stated.etag!r}), it cannot be checked.")
    return stated.etag


def _download(subject: str, repo: str, revision: str, file: str, *, digest: str, force: bool) -> Path:
    """Return the path of the file, downloaded (`force`: whatever the cache has) and with that digest."""
    from huggingface_hub import hf_hub_download

    for attempt in range(2):
        with bars_on_terminals_only():
            path = Path(hf_hub_download(repo, file, revision=revision, force_download=force or attempt > 0))
        if _has_digest(path, digest):
            return path
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise HubError(
        f"{subject}: what was downloaded is not the file that the commit has (its digest differs, twice): it was "
        "removed, tell the owner of the server or proxy in between."
    )


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Show the client's progress bars on a terminal; in a log they would be thousands of lines."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
