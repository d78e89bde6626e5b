"""The lock file of a project, `zoo.lock`: what `frozen=True` may load, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from connectomics_zoo.errors import SpecError, WeightsError, nearest
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.weights_lock import LockedNetwork, LockedWeights, WeightsLock
from connectomics_zoo.specs.identity import has_digest_of_0_1_0, network_changes
from connectomics_zoo.specs.releases import find_released

WEIGHTS_LOCK = "zoo.lock"
"""Its usual name, in the folder that one works in."""

LOCK_VERSION: Literal[2] = 2
"""The version of the format that is written."""

_HEAD = (
    "# Written by zoo lock: with --frozen (frozen=True) only these files are loaded. Keep it under version control.\n"
)


class OpenLock(NamedTuple):
    """A lock file that has been read."""

    path: Path
    """Where it lies, for errors."""
    weights: Mapping[str, LockedWeights]
    """What it has, by reference."""


def read_weights_lock(path: Path) -> OpenLock:
    """Return the lock file at `path`, read.

    Raises:
        SpecError: it is missing or does not follow the schema.
    """
    if not path.is_file():
        raise SpecError(f"{path}: there is no such lock file, write one with zoo lock REF.")
    try:
        return OpenLock(path, WeightsLock.model_validate(read_yaml(path)).weights)
    except ValidationError as error:
        raise SpecError(f"{path}: {describe_errors(error)}") from None


def write_weights_lock(weights: Mapping[str, LockedWeights], path: Path) -> None:
    """Write a lock file that has `weights`, sorted; at no moment does a half-written file have that name.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = WeightsLock(lock_version=LOCK_VERSION, weights=dict(sorted(weights.items())))
    write_text(path, _HEAD + dump_yaml(ordered.model_dump(mode="json", exclude_none=True)))


def locked(lock: OpenLock, name: str) -> LockedWeights:
    """Return what the lock file has of the weights called `name`.

    Raises:
        WeightsError: it does not have them.
    """
    if name not in lock.weights:
        raise WeightsError(
            f"{name}: not in {lock.path}, so not loaded: lock it (zoo lock {name}), or {nearest(name, lock.weights)}"
        )
    return lock.weights[name]


def network_difference(held: LockedWeights, spec: ModelSpec) -> str | None:
    """Return in words how the network of `spec` differs from the locked one, None where it is the same.

    Raises:
        SpecError: the lock is of 0.1.0, and that of a catalogue, by which it is understood, cannot be read.
    """
    if isinstance(held.network, LockedNetwork):
        changes = network_changes(spec, held.network.model_dump())
        return f"{changes[0].path} is {changes[0].now}, and was {changes[0].kept}" if changes else None
    released = find_released(spec.reference)
    arch_fields = [spec.arch.model_fields_set, *([] if released is None else [released["arch"].keys()])]
    if has_digest_of_0_1_0(spec, held.network, arch_fields=arch_fields):
        return None
    return "or another recipe: the lock is of 0.1.0, whose digest covers both"
