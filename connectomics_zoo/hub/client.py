"""Talks to the Hub through its own client, whose settings hold (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE)."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from connectomics_zoo.errors import HubError, ZooError
from connectomics_zoo.hub.patience import MOST_SECONDS, BusyError, Patience, retry_after

_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "ssl", "socket")
"""Packages whose errors mean that no answer came; which of them the client uses depends on its version."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit, as the Hub states it."""

    size: int
    """Its bytes."""
    sha256: str | None
    """Its digest, None for a small file that git itself holds."""


@dataclass(frozen=True)
class Commit:
    """One commit of a repository."""

    repo: str
    """`org/name`."""
    revision: str
    """40 hexadecimal digits."""
    files: dict[str, RemoteFile]
    """What it holds, by path."""


def endpoint() -> str:
    """Return the address of the Hub that is in use."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def cache_folder(repo: str) -> Path:
    """Return the folder of the client's cache that is for `repo`, there or not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def find_commit(repo: str, revision: str | None) -> Commit:
    """Ask the Hub for the commit that `revision` (None: the main branch) of `repo` is now, and for its files.

    Raises:
        HubError: there is no such repository or revision, or no answer.
    """
    with explained(_spelling(repo, revision)):
        from huggingface_hub import HfApi

        info = Patience().ask(lambda: HfApi().model_info(repo, revision=revision, files_metadata=True))
        files = {
            item.rfilename: RemoteFile(item.size or 0, None if item.lfs is None else item.lfs.sha256)
            for item in info.siblings or ()
        }
    if info.sha is None:
        raise HubError(f"{_spelling(repo, revision)}: the server at {endpoint()} names no commit, is it a Hub?")
    return Commit(repo, info.sha, files)


def _spelling(repo: str, revision: str | None) -> str:
    return f"hf://{repo}" + (f"@{revision}" if revision else "")


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turn what the client raises inside into a `HubError` of one sentence about `subject`.

    Anything that is no matter of the Hub, the network or the disk is raised as it is, and so are our own errors.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        _explain(subject, error)


def _explain(subject: str, error: BaseException) -> NoReturn:
    from huggingface_hub import errors

    if isinstance(error, BusyError) and error.__cause__ is not None:
        _explain_status(subject, error.__cause__, after=error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        what = "not in the cache, and the Hub may not be asked (HF_HUB_OFFLINE=1)"
        _fail(subject, what, "pull it (zoo pull) where there is network, into the cache that is used here")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            _explain(subject, error.__cause__)
        _fail(subject, "not in the cache", "pull it (zoo pull) where there is network")
    for kind, what, advice in (
        (errors.GatedRepoError, "access to this repository must be granted", f"ask for it at {endpoint()}"),
        (
            errors.RepositoryNotFoundError,
            "there is no such repository, or it is private and your token does not open it",
            "check the name, or log in (hf auth login, or HF_TOKEN)",
        ),
        (errors.RevisionNotFoundError, "there is no such revision", "check it in the repository's history"),
        (errors.EntryNotFoundError, "there is no such file at that revision", "check the name and the revision"),
        (errors.HFValidationError, f"the client refuses this name ({_first_line(error)})", "check it"),
        (
            errors.LocalTokenNotFoundError,
            "this needs a token and there is none",
            "log in (hf auth login, or HF_TOKEN)",
        ),
    ):
        if isinstance(error, kind):
            _fail(subject, what, advice)
    if isinstance(error, errors.HfHubHTTPError):
        _explain_status(subject, error)
    # So the client wraps what went wrong with a card's metadata, and in a thread that uploads.
    if isinstance(error, ValueError | RuntimeError) and isinstance(error.__cause__, Exception):
        _explain(subject, error.__cause__)
    if type(error).__module__.partition(".")[0] in _TRANSPORTS or isinstance(error, ConnectionError | TimeoutError):
        what = f"no answer from {endpoint()} ({_reason(error)})"
        _fail(subject, what, "check the network, or pull it (zoo pull) where there is one")
    # RuntimeError itself, no kind of it, is what the client's Xet transfer raises for all that it meets.
    if isinstance(error, OSError) or type(error) is RuntimeError:
        _explain_system(subject, error)
    raise error


def _explain_system(subject: str, error: Exception) -> NoReturn:
    """Explain what the disk, or the transfer between it and the Hub, did not do."""
    number = _system_number(error)
    if number in _FULL:
        _fail(subject, "the disk is full", "free some space, or move the cache (HF_HOME)")
    if number in _CLOSED:
        what = f"the system does not let us read or write ({_reason(error)})"
        _fail(subject, what, "change the rights of that place, or move the cache (HF_HOME)")
    if "Consistency check failed" in str(error):
        _fail(subject, "the download ended early and again when it was resumed", "try again")
    _fail(subject, f"the transfer failed ({_reason(error)})", "check the network, and try again")


def _system_number(error: Exception) -> int | None:
    """Return the number of a system's error; of one that is only told of in a text, as it stands there."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    told = re.search(r"\bos error ([0-9]{1,5})\b", str(error))
    if told is None and "No space left on device" in str(error):
        return errno.ENOSPC
    return None if told is None else int(told[1])


def _explain_status(subject: str, error: BaseException, *, after: BusyError | None = None) -> NoReturn:
    """Explain an answer of the Hub that has no type of its own, and that came again `after` some waits."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    wait = None if response is None else retry_after(response)
    waits = "" if after is None else f", asked {_times(after)}; a load waits {MOST_SECONDS} s at most"
    known = {
        401: ("the token is not valid", "log in again (hf auth login, or HF_TOKEN)"),
        403: ("your token is not allowed to do this", "use one with the right to it, or ask the repository's owner"),
        404: ("there is no such thing on the Hub", "check the name"),
        409: ("it exists already, or somebody changed it at the same time", "look at it, and try again"),
        412: ("somebody changed the repository at the same time", "look at it, and try again"),
        413: ("the file is larger than the Hub takes", "push a smaller one"),
        429: (
            f"the Hub answers no more requests for now (status 429{waits})",
            f"try again in {wait} s"
            if wait is not None
            else "try again in some minutes, with a token if you have none",
        ),
    }
    if isinstance(status, int) and status >= 500:
        _fail(subject, f"the Hub has a fault of its own (status {status}{waits})", "try again later")
    what, advice = known.get(status or 0, (f"the Hub answers with status {status}: {_first_line(error)}", "mend that"))
    _fail(subject, what, advice)


def _times(asked: BusyError) -> str:
    return "once" if asked.asked == 1 else f"{asked.asked} times in {asked.waited} s"


def _fail(subject: str, what: str, advice: str) -> NoReturn:
    raise HubError(f"{subject}: {what}: {advice}.") from None


def _reason(error: BaseException) -> str:
    return _first_line(error) or type(error).__name__


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")[:200]
