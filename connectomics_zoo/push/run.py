"""`push`: a run to a repository on the Hub, as a preview into a folder, or as weights beside a spec."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connectomics_zoo.errors import HubError, OutputError, ZooError
from connectomics_zoo.files.digests import file_sha256
from connectomics_zoo.files.yaml import MAX_BYTES
from connectomics_zoo.hub import HubReference, fetch, find_commit
from connectomics_zoo.push import upload
from connectomics_zoo.push.entry import (
    changed_text,
    hub_entry,
    package_entry,
    plain_entry,
    read_own_spec,
    refuse_other_weights,
    rounded,
    write_entry,
)
from connectomics_zoo.push.folder import (
    CARD_FILE,
    OPTIONAL_FILES,
    PICTURE_FILE,
    copy_files,
    file_sizes,
    refuse_other_content,
)
from connectomics_zoo.push.measured import Notify, measure_numbers, measure_objects
from connectomics_zoo.push.package import Package, make_package, refuse_leaks_of
from connectomics_zoo.push.trained import PushRequest, Trained, read_trained, require_verified, write_trained
from connectomics_zoo.runs.folder import PREVIEW, SPEC_FILE, TUNED_FILE, WEIGHTS_FILE
from connectomics_zoo.schema.base import RepoId
from connectomics_zoo.schema.model import WeightsEntry


@dataclass(frozen=True)
class PushReport:
    """What was given away, or would be."""

    run: str
    """The run's folder."""
    tag: str
    """Tag of the weights in a spec."""
    entry: dict[str, Any]
    """What a spec says about them; without the revision in a preview."""
    files: dict[str, int]
    """Bytes of each file."""
    notes: tuple[str, ...]
    """What could not be measured, and the like."""
    repo: str | None = None
    """`org/name`."""
    revision: str | None = None
    """The commit that holds the weights."""
    reference: str | None = None
    """`hf://org/name@<revision>`, which means exactly these weights."""
    private: bool | None = None
    """Whether the repository is closed to the public."""
    commits: int = 0
    """Commits that were made; none where all was there already."""
    folder: str | None = None
    """The folder of a preview, or that of the spec."""


def push(
    request: PushRequest,
    repo: str,
    *,
    private: bool = False,
    tag: str | None = None,
    spec: Path | None = None,
    pictures: bool = True,
    message: str | None = None,
    notify: Notify,
) -> PushReport:
    """Push a run to a repository on the Hub, which is made if need be; what is there already is not pushed again.

    The first commit holds the weights, and is what entry and reference name; a second one adds it to the card.

    Args:
        request: what is pushed.
        repo: `org/name`.
        private: the repository is, or becomes, closed to the public.
        tag: tag for the commit of the weights.
        spec: file of the model's spec that the entry is written into.
        pictures: push pictures, which show the data.
        message: first line of the commit.
        notify: is told what is being done, what goes where, and what could not be measured.

    Raises:
        ZooError: it is no run that may be given away, or the Hub does not take it; nothing was uploaded then, but for
            what the message says.
    """
    check_repo(repo)
    if tag is not None:
        upload.check_tag_name(repo, tag)
    trained = read_trained(request)
    if spec is not None:
        read_own_spec(spec, trained)
    repository = upload.inspect_repository(repo, private=private)
    upload.refuse_foreign(repository, model=trained.public.model.name)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        package = make_package(trained, Path(scratch), pictures=pictures, notify=_keeping(notes, notify))
        if spec is not None:
            _refuse_entry(spec, package, repo=repo)
        revision = _pushed_revision(repository, package)
        if tag is not None:
            upload.refuse_tag(repository, tag, revision=revision)
        repository = upload.create(repository)
        _announce(repository, package, notify=notify)
        subject = message or f"{trained.public.model.reference}, run {trained.public.name}"
        revision, commits = _commit(repository, package, revision=revision, message=subject)
        if tag is not None:
            upload.add_tag(repository, tag, revision=revision)
        sizes = file_sizes(package.paths(CARD_FILE))
    entry = hub_entry(package.entry, repo=repo, revision=revision)
    reference = str(HubReference(repo, revision, None))
    if spec is not None:
        _write_pushed(spec, trained.tag, entry, reference=reference)
    return PushReport(
        run=str(request.run),
        tag=trained.tag,
        entry=plain_entry(entry),
        files=sizes,
        notes=tuple(notes),
        repo=repo,
        revision=revision,
        reference=reference,
        private=repository.private,
        commits=commits,
    )


def preview(
    request: PushRequest, repo: str, *, output: Path | None = None, pictures: bool = True, notify: Notify
) -> PushReport:
    """Write everything that `push` would upload into a folder, and touch no network.

    Args:
        request: what would be pushed.
        repo: `org/name`.
        output: the folder; by default `push-preview` in the run's. One that a preview made is replaced.
        pictures: draw pictures.
        notify: is told what is being done, and what could not be measured.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
        ZooError: it is no run that may be given away.
    """
    check_repo(repo)
    trained = read_trained(request)
    folder = output if output is not None else request.run / PREVIEW
    refuse_other_content(folder)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        package = make_package(trained, Path(scratch), pictures=pictures, notify=_keeping(notes, notify))
        package.write_card(repo=repo, revision=None)
        files = package.paths(CARD_FILE)
        copy_files(files, folder)
        for name in OPTIONAL_FILES:  # of an earlier preview
            if name not in files:
                (folder / name).unlink(missing_ok=True)
        sizes = file_sizes(files)
    place = {"source": "hub", "repo": repo}
    return PushReport(
        run=str(request.run),
        tag=trained.tag,
        entry=place | plain_entry(package.entry) | place,
        files=sizes,
        notes=tuple(notes),
        repo=repo,
        folder=str(folder),
    )


def ship(request: PushRequest, spec: Path, *, output: Path | None = None, notify: Notify | None = None) -> PushReport:
    """Put the weights of a run beside the spec file of their model, as `<model>.<tag>.safetensors`, with their entry.

    Args:
        request: what is shipped.
        spec: the file of the model's spec, such as one of a catalogue.
        output: write the weights into this folder instead, and leave the spec as it is.
        notify: is told what is being done, and what could not be measured; the report has it too.

    Raises:
        SpecError: the spec is not that of the run's model.
        WeightsError: the spec has other weights of this tag.
        OutputError: something else is in the place of the weights, or it cannot be written.
        ZooError: it is no run that may be given away.
    """
    trained = read_trained(request)
    own = read_own_spec(spec, trained)
    require_verified(request.run)
    name = f"{own.name}.{trained.tag}.safetensors"
    folder = spec.parent if output is None else output
    notes: list[str] = []
    keep = _keeping(notes, notify or (lambda _: None))
    if output is not None:
        refuse_other_content(output)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / WEIGHTS_FILE
        write_trained(trained, made.parent)
        refuse_leaks_of(trained, made.parent, (SPEC_FILE,))
        entry = _entry_beside(trained, made, name=name)
        refuse_other_weights(own, trained.tag, sha256=entry.sha256, repo=None)
        target = folder / name
        if target.is_symlink() or (target.exists() and output is None and file_sha256(target) != entry.sha256):
            raise OutputError(f"{target} exists and is another file, give your weights another tag with --name.")
        if output is None:
            changed_text(spec, trained.tag, entry)  # before it takes long, and the weights are put there
        known = own.weights.get(trained.tag)
        scores = measure_objects(made.parent, trained.run, notify=keep) or ({} if known is None else known.metrics)
        entry = entry.model_copy(update={"metrics": {**rounded(scores), **entry.metrics}})
        copy_files({name: made}, folder)
    if output is None:
        write_entry(spec, trained.tag, entry)
    if trained.tuned is not None and trained.public.task.decode != trained.tuned.decode:
        keep(_left_behind(trained))
    return PushReport(
        run=str(request.run),
        tag=trained.tag,
        entry=plain_entry(entry),
        files={name: target.stat().st_size},
        notes=tuple(notes),
        folder=str(folder),
    )


def _entry_beside(trained: Trained, made: Path, *, name: str) -> WeightsEntry:
    """Return the entry of the weights in the file `made`, which will lie beside a spec, with the scores of training."""
    _, _, probe = measure_numbers(made.parent, trained.public)
    return package_entry(trained, sha256=file_sha256(made), size=made.stat().st_size, probe=probe, scores={}, file=name)


def check_repo(repo: str) -> None:
    """Refuse what can be no repository.

    Raises:
        HubError: it is not of the form `org/name`.
    """
    try:
        TypeAdapter(RepoId).validate_python(repo)
    except ValidationError:
        raise HubError(
            f"{repo!r} is no repository, write org/name (letters, digits, single -, _ and .; a user's name is an org "
            "too), or the path of a spec file that ends in .yaml."
        ) from None


def _refuse_entry(spec: Path, package: Package, *, repo: str) -> None:
    """Refuse an entry that could not be written into the file `spec`, before anything is uploaded."""
    trained, entry = package.trained, package.entry
    refuse_other_weights(read_own_spec(spec, trained), trained.tag, sha256=entry.sha256, repo=repo)
    changed_text(spec, trained.tag, hub_entry(entry, repo=repo, revision="0" * 40))


def _write_pushed(spec: Path, tag: str, entry: WeightsEntry, *, reference: str) -> None:
    """Write the entry of what was pushed, and say in an error that it is on the Hub all the same."""
    try:
        write_entry(spec, tag, entry)
    except ZooError as error:
        raise type(error)(f"{error} What was pushed is {reference}: push again to write its entry.") from None


def _commit(repository: upload.Repository, package: Package, *, revision: str | None, message: str) -> tuple[str, int]:
    """Commit what is not there yet; return the commit of the weights (`revision` if there was one), and how many."""
    entry, commits = package.entry, 0
    assert entry.size is not None
    if revision is None:
        package.write_card(repo=repository.name, revision=None)
        stale = tuple(name for name in OPTIONAL_FILES if name not in package.names)
        revision = upload.commit(repository, package.paths(CARD_FILE), message=message, remove=stale)
        repository = dataclasses.replace(repository, head=revision)
        commits = 1
    upload.check_commit(repository.name, revision, sha256=entry.sha256, size=entry.size)
    package.write_card(repo=repository.name, revision=revision)
    card = {CARD_FILE: package.folder / CARD_FILE}
    if commits or not upload.holds(repository, card):
        upload.commit(repository, card, message=f"Card: name the commit {revision[:12]}")
        commits += 1
    return revision, commits


def _left_behind(trained: Trained) -> str:
    return (
        f"{trained.folder / TUNED_FILE} has no place beside a spec, and its settings stay behind: put them into "
        f"`decode` of the task {trained.public.task.name}, or give them to zoo decode"
    )


def _keeping(notes: list[str], notify: Notify) -> Notify:
    def keep(message: str) -> None:
        notes.append(message)
        notify(message)

    return keep


def _pushed_revision(repository: upload.Repository, package: Package) -> str | None:
    """Return the commit that holds exactly this package already, None where there is none."""
    stale = [name for name in OPTIONAL_FILES if name not in package.names and name in repository.files]
    if stale or repository.head is None or not upload.holds(repository, package.paths()):
        return None
    named = _named_revision(repository) if CARD_FILE in repository.files else None
    return named if named is not None and _has(repository.name, named, package.entry) else repository.head


def _named_revision(repository: upload.Repository) -> str | None:
    """Return the commit that the card names."""
    assert repository.head is not None
    card = fetch(repository.name, repository.head, CARD_FILE, max_bytes=MAX_BYTES).read_text(encoding="utf-8")
    match = re.search(rf"hf://{re.escape(repository.name)}@([0-9a-f]{{40}})", card)
    return match[1] if match is not None else None


def _has(repo: str, revision: str, entry: WeightsEntry) -> bool:
    try:
        found = find_commit(repo, revision).files.get(WEIGHTS_FILE)
    except HubError:  # its history was rewritten
        return False
    return found is not None and found.sha256 == entry.sha256


def _announce(repository: upload.Repository, package: Package, *, notify: Notify) -> None:
    files = file_sizes(package.paths())
    total = sum(files.values()) / 1e6
    shown = f"; {PICTURE_FILE} shows your data" if PICTURE_FILE in files else ""
    notify(
        f"hf://{repository.name} is {'private' if repository.private else 'public, everybody can read it'}; what it "
        f"gets: {', '.join([*files, CARD_FILE])} ({total:.1f} MB){shown}"
    )
