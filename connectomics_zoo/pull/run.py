"""`pull`: trained weights onto this machine: into the cache, or as a folder to take elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.files.atomic import refuse_existing, whole_folder
from connectomics_zoo.files.digests import file_sha256, write_sums
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.hub import pin
from connectomics_zoo.runs.folder import SPEC_FILE, WEIGHTS_FILE
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.weights.match import refuse_misfit
from connectomics_zoo.weights.pretrained import Frozen, embedded_run, find_pretrained


@dataclass(frozen=True)
class PullReport:
    """What was pulled."""

    ref: str
    """The reference that means exactly these weights, now and later."""
    path: str
    """The file, or the folder that was made."""
    sha256: str
    """Digest of the weights."""
    size: int
    """Bytes of the weights."""
    license: str | None
    """Their licence, where it is known."""


def pull(ref: str, *, to: str | Path | None = None, frozen: Frozen = False) -> PullReport:
    """Bring trained weights onto this machine, checked; afterwards they load without network.

    Args:
        ref: `name` (its first weights), `name.tag` or `hf://org/repo@revision`; without a revision, the main branch as
            it is now, whose pinned reference is in the report.
        to: make this folder, with the spec and the weights: a reference of its own for a machine without network.
        frozen: pull only what the lock file has.

    Raises:
        OutputError: the folder exists, or cannot be written.
        ZooError: see `pretrained.find_pretrained`.
    """
    folder = None if to is None else Path(to)
    if folder is not None:
        refuse_existing(folder)
    reference = parse_reference(ref)
    if reference.hub is not None and frozen is False:
        reference = reference.at(pin(reference.hub))
    found = find_pretrained(reference, frozen=frozen)
    refuse_misfit(found.spec, found.path, source=found.name)
    run = embedded_run(found)
    if folder is not None:
        described = found.spec.model_copy(update={"weights": {}}) if run is None else run
        _write_folder(found.path, described.model_dump(mode="json"), folder)
    known = run.data.license if run is not None else None
    return PullReport(
        ref=found.name,
        path=str(found.path if folder is None else folder),
        sha256=file_sha256(found.path),
        size=found.path.stat().st_size,
        license=known if found.entry is None else found.entry.license,
    )


def _write_folder(weights: Path, document: dict[str, Any], folder: Path) -> None:
    """Write a spec's document and the weights into a new folder that appears complete or not at all."""
    with whole_folder(folder) as partial:
        (partial / SPEC_FILE).write_text(dump_yaml(document), encoding="utf-8")
        shutil.copyfile(weights, partial / WEIGHTS_FILE)
        write_sums(partial, (SPEC_FILE, WEIGHTS_FILE))
