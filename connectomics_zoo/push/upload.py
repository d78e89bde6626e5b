"""Puts files into a repository on the Hub: looked at first, committed at once, and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from connectomics_zoo.errors import HubError, ZooError
from connectomics_zoo.files.digests import file_git_sha1, file_sha256
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.hub import (
    HubReference,
    bars_on_terminals_only,
    endpoint,
    explained,
    fetch_spec,
    find_commit,
)
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.validation import validate

_NEUTRAL = (".gitattributes", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
"""Files that say nothing of what a repository is for."""


@dataclass(frozen=True)
class Repository:
    """A repository as it is before a push."""

    name: str
    """`org/name`."""
    exists: bool
    """Whether it is there."""
    private: bool
    """Whether it is, or will be, closed to the public."""
    head: str | None
    """The commit of its main branch."""
    files: dict[str, str | None]
    """What that commit holds: the digest (SHA-256 of a large file, git's SHA-1 of a small one) by path."""
    tags: dict[str, str]
    """The commit of each tag."""


def inspect_repository(repo: str, *, private: bool) -> Repository:
    """Return what the repository is now; nothing is changed.

    Raises:
        HubError: nobody is logged in, the Hub does not answer, or a repository that has to be private is public.
    """
    subject = f"hf://{repo}"
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{subject}: a push needs the Hub, and HF_HUB_OFFLINE=1 forbids it: unset it, or use --dry-run.")
    if get_token() is None:
        raise HubError(f"{subject}: a push needs a token and there is none: log in (hf auth login, or HF_TOKEN).")
    api = HfApi()
    with explained(subject):
        try:
            info = api.model_info(repo, files_metadata=True)
        except RepositoryNotFoundError:
            return Repository(repo, exists=False, private=private, head=None, files={}, tags={})
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags}
    if private and not info.private:
        raise HubError(
            f"{subject}: is public, and --private was asked for: make it private in its settings, or choose another "
            "name."
        )
    files = {item.rfilename: item.blob_id if item.lfs is None else item.lfs.sha256 for item in info.siblings or ()}
    return Repository(repo, exists=True, private=bool(info.private), head=info.sha, files=files, tags=tags)


def refuse_foreign(repository: Repository, *, model: str) -> None:
    """Refuse a repository that holds anything but earlier versions of this model.

    Raises:
        HubError: it does.
    """
    subject = f"hf://{repository.name}"
    others = sorted(name for name in repository.files if name not in _NEUTRAL)
    if not others or repository.head is None:
        return
    try:
        path = fetch_spec(HubReference(repository.name, repository.head, None))
        held = validate(RunSpec, read_yaml(path), source=SPEC_FILE).model.name
    except ZooError:
        held = None
    if held is None:
        raise HubError(
            f"{subject}: holds something that zoo push did not make ({', '.join(others[:3])}) and is left as it is: "
            "choose another name."
        )
    if held != model:
        raise HubError(f"{subject}: holds the model {held}, not {model}, and is left as it is: choose another name.")


def create(repository: Repository) -> Repository:
    """Return the repository, made if it is not there; one that has to be private is, before anything is uploaded.

    Raises:
        HubError: it cannot be made, or is not private.
    """
    if repository.exists:
        return repository
    with explained(f"hf://{repository.name}"):
        # None leaves it to the organisation's own rule, which may be that all is private.
        HfApi().create_repo(repository.name, private=True if repository.private else None, exist_ok=True)
    return inspect_repository(repository.name, private=repository.private)


def holds(repository: Repository, files: Mapping[str, Path]) -> bool:
    """Whether the repository has exactly these files, and of `files` none other."""
    return all(_is_same(path, repository.files.get(name)) for name, path in files.items())


def _is_same(path: Path, digest: str | None) -> bool:
    if digest is None:
        return False
    return digest == (file_sha256(path) if len(digest) == 64 else file_git_sha1(path))


def commit(repository: Repository, files: Mapping[str, Path], *, message: str, remove: tuple[str, ...] = ()) -> str:
    """Commit `files` on top of what `repository` was when it was looked at, and return the commit's 40 digits.

    Args:
        repository: where to.
        files: what, by its name there.
        message: first line of the commit.
        remove: files that are taken away if they are there.

    Raises:
        HubError: it was refused, or somebody else has committed meanwhile.
    """
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in remove if name in repository.files]
    with explained(f"hf://{repository.name}"), bars_on_terminals_only():
        made = HfApi().create_commit(repository.name, operations, commit_message=message, parent_commit=repository.head)
    return str(made.oid)


def check_commit(repo: str, revision: str, *, sha256: str, size: int) -> None:
    """Read back what the Hub holds at `revision`.

    Raises:
        HubError: the weights there are not those that were pushed.
    """
    found = find_commit(repo, revision).files.get(WEIGHTS_FILE)
    if found is None or (found.sha256, found.size) != (sha256, size):
        raise HubError(
            f"hf://{repo}@{revision}: the Hub at {endpoint()} does not hold the weights that were pushed: do not use "
            "that commit, and push again."
        )


def check_tag_name(repo: str, tag: str) -> None:
    """Refuse what can be no tag, or reads like a branch or a commit.

    Raises:
        HubError: it is so.
    """
    legal = re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,98}[A-Za-z0-9]|[A-Za-z0-9]", tag)
    if not legal or tag.endswith(".lock") or tag == "main" or re.fullmatch(r"[0-9a-f]{7,40}", tag):
        raise HubError(
            f"hf://{repo}: {tag!r} can be no tag, write letters, digits, single . - and _ (not main, nothing like a "
            "commit), such as v1."
        )


def add_tag(repository: Repository, tag: str, *, revision: str) -> None:
    """Give the commit `revision` a tag, unless it has it.

    Raises:
        HubError: the tag cannot be made.
    """
    if repository.tags.get(tag) == revision:
        return
    with explained(f"hf://{repository.name}, tag {tag}"):
        HfApi().create_tag(repository.name, tag=tag, revision=revision)


def refuse_tag(repository: Repository, tag: str, *, revision: str | None) -> None:
    """Refuse a tag that another commit has; `revision` is None where the commit is still to be made.

    Raises:
        HubError: it does.
    """
    known = repository.tags.get(tag)
    if known is not None and known != revision:
        raise HubError(
            f"hf://{repository.name}: has the tag {tag!r} already ({known[:12]}…), and tags are not moved: "
            "choose another one."
        )
