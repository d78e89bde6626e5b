"""From a reference to trained weights: a file on this machine, checked, and the spec of the network that it is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.digests import check_sums, file_sha256
from connectomics_zoo.files.safetensors import PICKLES
from connectomics_zoo.hub import HubReference, fetch, fetch_weights
from connectomics_zoo.runs.folder import weights_in
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec, WeightsEntry
from connectomics_zoo.schema.weights_lock import LockedWeights
from connectomics_zoo.specs.embedded import run_in
from connectomics_zoo.specs.identity import is_same_network
from connectomics_zoo.specs.lookup import Resolved, check_tag, resolve
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.lock_file import WEIGHTS_LOCK, OpenLock, locked, network_difference, read_weights_lock
from connectomics_zoo.weights.storage import largest_file

Frozen = bool | str | Path
"""True: only what the lock file `zoo.lock` in the current folder has is loaded; or the path of another lock file."""


@dataclass(frozen=True)
class Pretrained:
    """Trained weights that a reference means."""

    name: str
    """`name@1.0.0.tag`, `hf://org/repo@<commit>`, or the path of a folder."""
    spec: ModelSpec
    """The spec of the network, with the channels that it was trained with."""
    path: Path
    """The file, on this machine; its digest was checked where one is declared."""
    entry: WeightsEntry | None = None
    """What the spec declares about them, where it does."""
    beside: Resolved | None = None
    """The folder or repository that they lie in, with the spec there; None where the spec declares them."""
    digest: str | None = None
    """The SHA-256 of the file, where it is known: it was checked, or is that of what `digested` holds."""

    @property
    def source(self) -> str:
        """What a load report calls them: the file, and the reference where that does not lead to it."""
        return str(self.path) if self.path.is_relative_to(self.name) else f"{self.name}: {self.path}"

    def sha256(self) -> str:
        """Return the digest of the file, which is read for it where it is not known."""
        return file_sha256(self.path) if self.digest is None else self.digest


@contextmanager
def digested(found: Pretrained) -> Iterator[Pretrained]:
    """Yield `found` with the digest of its file; in the block, the file is read.

    Raises:
        WeightsError: another file has that name at the end, as when a training keeps better weights meanwhile.
    """
    before = _identity(found.path)
    yield replace(found, digest=found.sha256())
    if _identity(found.path) != before:
        raise WeightsError(
            f"{found.path}: was replaced while it was read, as by a training that still runs: start again, or give a "
            "copy of the folder."
        )


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from the one that takes its name; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def find_pretrained(ref: str | Path | Reference, tag: str | None = None, *, frozen: Frozen = False) -> Pretrained:
    """Return the trained weights of a reference, downloaded if need be, and checked.

    Args:
        ref: `name` (its first weights), `name.tag`, `hf://org/repo@revision`, a YAML file, or a folder with a spec and
            weights, such as a run folder.
        tag: which of the spec's weights, where the reference does not say it.
        frozen: load only what the lock file has, and exactly that.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: there are no such weights, they are not the declared ones, or the lock file does not have them.
        HubError: the Hub does not give them.
        SpecError: a spec or the lock file cannot be read.
    """
    reference = parse_reference(ref)
    folder = reference.path if reference.path is not None and reference.path.is_dir() else None
    lock = None
    if frozen is not False:
        path = Path(WEIGHTS_LOCK if frozen is True else frozen)
        if reference.path is not None:
            what = "a spec's file" if folder is None else "a folder"
            raise WeightsError(f"{reference.text}: {what} is not in {path}, leave out either it or frozen.")
        lock = read_weights_lock(path)
    if reference.hub is not None:
        return _in_repository(reference, lock)
    return _of_spec(resolve(reference), tag, lock) if folder is None else _in_folder(reference, folder)


def _in_folder(reference: Reference, folder: Path) -> Pretrained:
    """Find the weights in a folder."""
    weights = weights_in(folder)
    found = resolve(reference)
    sums = check_sums(folder)
    return Pretrained(reference.text, found.model, weights, beside=found, digest=sums.get(weights.name))


def _of_spec(found: Resolved, tag: str | None, lock: OpenLock | None) -> Pretrained:
    """Find weights that a spec declares."""
    spec = found.model
    wanted = found.reference.tag or tag
    check_tag(spec, wanted)
    chosen = wanted or next(iter(spec.weights))
    entry = spec.weights[chosen]
    name = _full_name(found, chosen)
    network = with_channels_of(spec, entry)
    if lock is not None:
        _refuse_unlike(entry, network, name=name, lock=lock)
    path = weights_path(spec, chosen, folder=found.path.parent)
    if lock is not None and path.stat().st_size != locked(lock, name).size:
        raise WeightsError(f"{name}: has {path.stat().st_size} bytes, and {lock.path} has another size: lock it again.")
    return Pretrained(name, network, path, entry=entry, digest=entry.sha256)


def with_channels_of(spec: ModelSpec, entry: WeightsEntry) -> ModelSpec:
    """Return `spec` with the channels of the network that its weights `entry` are of."""
    return resolve_model(spec, in_channels=entry.input_channels, out_channels=entry.output_channels)


def _full_name(found: Resolved, tag: str) -> str:
    """Return the reference that means these weights alone, whatever is the current version or the first tag."""
    if found.entry is None:
        return f"{found.reference.text}.{tag}"
    home = found.entry.catalog.name
    return f"{'' if home == 'zoo' else f'{home}:'}{found.model.reference}.{tag}"


def _refuse_unlike(entry: WeightsEntry, network: ModelSpec, *, name: str, lock: OpenLock) -> None:
    """Refuse weights called `name`, or a network for them, that are not those in the lock file."""
    held = locked(lock, name)
    declared = (entry.source, entry.repo, entry.revision, entry.file, entry.sha256)
    if declared != (held.source, held.repo, held.revision, held.file, held.sha256):
        raise WeightsError(
            f"{name}: the spec declares other weights (sha256 {entry.sha256[:12]}…) than {lock.path} has "
            f"({held.sha256[:12]}…), so none are loaded: install the catalogue of that time, or lock it again."
        )
    difference = network_difference(held, network)
    if difference is not None:
        raise WeightsError(
            f"{name}: the spec declares another network than {lock.path} has ({difference}), so nothing is loaded: "
            "install the catalogue of that time, or lock it again."
        )


def weights_path(spec: ModelSpec, tag: str, *, folder: Path) -> Path:
    """Return the checked file of the weights `tag` of the spec that lies in `folder`, downloaded if need be.

    Raises:
        WeightsError: the file is missing or not the one that the spec declares.
        HubError: the Hub does not give it.
    """
    entry = spec.weights[tag]
    if entry.repo is not None and entry.revision is not None:
        limit = entry.size or largest_file(with_channels_of(spec, entry))
        return fetch(entry.repo, entry.revision, entry.file, max_bytes=limit, sha256=entry.sha256, size=entry.size)
    path = folder / entry.file
    if path.is_symlink():
        raise WeightsError(f"{path}: is a link, weights are read from the spec's own folder only: copy the file there.")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file, put it beside the spec.")
    right_size = entry.size is None or path.stat().st_size == entry.size
    if not right_size or file_sha256(path) != entry.sha256:
        raise WeightsError(f"{path}: not the file that {spec.name}.{tag} declares (sha256 differs), get it again.")
    return path


def _in_repository(reference: Reference, lock: OpenLock | None) -> Pretrained:
    """Find the weights of a repository, described by the spec there."""
    assert reference.hub is not None
    if lock is None:
        return weights_beside(resolve(reference))
    held = _locked_on_hub(reference.hub, lock)
    found = resolve(reference.at(reference.hub._replace(revision=held.revision, file=held.file)))
    if file_sha256(found.path) != held.spec_sha256:
        raise WeightsError(f"{reference.text}: the spec in the repository is not the one that {lock.path} has.")
    difference = network_difference(held, found.model)
    if difference is not None:
        raise WeightsError(
            f"{reference.text}: the network is not the one that {lock.path} has ({difference}), so nothing is loaded."
        )
    return weights_beside(found, sha256=held.sha256, size=held.size)


def weights_beside(found: Resolved, *, sha256: str | None = None, size: int | None = None) -> Pretrained:
    """Return the weights in the repository whose spec was found there, downloaded if need be, and checked.

    Raises:
        WeightsError: it has none, or pickles only.
        HubError: the Hub does not give them, or others than those of that digest and size.
    """
    hub = found.reference.hub
    assert hub is not None
    # Counted, since what a stranger's spec says of its own network may be anything.
    limit = largest_file(found.model.model_copy(update={"expect": None}))
    path = fetch_weights(hub, max_bytes=limit, sha256=sha256, size=size)
    return Pretrained(str(hub), found.model, path, beside=found, digest=sha256)


def _locked_on_hub(hub: HubReference, lock: OpenLock) -> LockedWeights:
    """Return what the lock file says of a repository, by the reference as it was locked or as it was pinned."""
    for name, held in lock.weights.items():
        if not name.startswith("hf://"):  # the spec of a catalogue describes that network, and not the one there
            continue
        if hub == (held.repo, held.revision, held.file):
            return held
        # Without a file, the reference means the one that the repository's names lead to, as a name in the lock does.
        if hub == (held.repo, held.revision, None) and _names_no_file(name):
            return held
    return locked(lock, str(hub))


def _names_no_file(name: str) -> bool:
    hub = parse_reference(name).hub
    return hub is not None and hub.file is None


def find_start(source: str | Path, spec: ModelSpec, *, frozen: Frozen = False) -> Pretrained:
    """Return the weights that a network of `spec` starts from: a file, of which only its header tells more, or others.

    Args:
        source: a safetensors file, or what `find_pretrained` takes; `~` is the home folder.
        spec: the network that starts.
        frozen: load only what the lock file has.

    Raises:
        WeightsError: a file is in no lock file.
        ZooError: see `find_pretrained`.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.suffix not in (".safetensors", *PICKLES) or text.startswith("hf:"):
        return find_pretrained(path if text.startswith("~") else source, frozen=frozen)
    if frozen is not False:
        raise WeightsError(f"{text}: a file is in no lock file, leave out either it or frozen.")
    return Pretrained(text, spec, path)


def find_run(ref: str | Path | Reference, *, frozen: Frozen = False) -> tuple[RunSpec, Pretrained]:
    """Return how a network was trained and is to be used, with its weights: of a run folder, or of trained weights.

    Raises:
        WeightsError: these weights do not say how they were trained.
        ZooError: see `find_pretrained`.
    """
    found = find_pretrained(ref, frozen=frozen)
    run = embedded_run(found)
    if run is None:
        raise WeightsError(
            f"{found.name}: nothing says how these weights were trained, so nothing can be predicted with them alone: "
            "load them with zoo.load, or give a run folder or what zoo push made of one."
        )
    if not is_same_network(run.model, found.spec):
        raise WeightsError(
            f"{found.name}: the spec in the weights file is of another network than the one that declares them: tell "
            "their owner."
        )
    return run, found


def embedded_run(found: Pretrained) -> RunSpec | None:
    """Return how weights were trained: from the spec beside them, or the one in their file; None where there is none.

    Raises:
        SpecError: that spec does not follow its schema, or names places of another machine.
    """
    return run_in(found.path) if found.beside is None else found.beside.run
