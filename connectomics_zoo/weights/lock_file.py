"""The lock file of a project, `zoo.lock`: what `frozen=True` may load, and nothing else."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from connectomics_zoo.errors import SpecError, WeightsError, nearest
from connectomics_zoo.files.atomic import write_text
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.schema.base import describe
from connectomics_zoo.schema.weights_lock import LockedWeights, WeightsLock

LOCK_FILE = "zoo.lock"
"""Its usual name, in the folder that one works in."""

_HEAD = (
    "# Written by zoo lock: with --frozen (frozen=True) only these files are loaded. Keep it under version control.\n"
)


def read_weights_lock(path: Path) -> WeightsLock:
    """Return what the lock file at `path` holds.

    Raises:
        SpecError: it is missing or does not follow the schema.
    """
    if not path.is_file():
        raise SpecError(f"{path}: there is no such lock file, write one with zoo lock REF.")
    try:
        return WeightsLock.model_validate(read_yaml(path))
    except ValidationError as error:
        raise SpecError(f"{path}: {describe(error)}") from None


def write_weights_lock(lock: WeightsLock, path: Path) -> None:
    """Write the lock file, sorted; at no moment does a half-written file have that name.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = WeightsLock(lock_version=1, weights=dict(sorted(lock.weights.items())))
    write_text(path, _HEAD + dump_yaml(ordered.model_dump(mode="json", exclude_none=True)))


def locked(path: Path, name: str) -> LockedWeights:
    """Return what the lock file at `path` says of the weights called `name`.

    Raises:
        SpecError: the lock file cannot be read.
        WeightsError: it does not have them.
    """
    known = read_weights_lock(path).weights
    if name not in known:
        raise WeightsError(
            f"{name}: not in {path}, so not loaded: lock it (zoo lock {name}), or {nearest(name, known)}"
        )
    return known[name]
