"""The lock of a catalogue: what each release holds, so that none changes under its name.

`specs/lock.json` maps `name@version` to the released content (see `content`) and its digest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from connectomics_zoo import catalog
from connectomics_zoo.catalog import Catalog
from connectomics_zoo.errors import LimitError, SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.content import changes_of, content_of, digest
from connectomics_zoo.specs.identity import NETWORK

_log = logging.getLogger(__name__)

RELEASES_FILE = "specs/lock.json"
"""Where a catalogue's lock lies in its folder."""

RELEASED = (*NETWORK, "training", "expect")
"""The fields of a model spec that a release fixes: its network, its recipe, and what was measured of it. The others are
prose, and may change."""

MAX_BYTES = 32 * 1024 * 1024

Lock = dict[str, dict[str, Any]]
"""Released content by `name@version`."""


class ReleaseDifference(NamedTuple):
    """A field that is not what was released."""

    path: str
    """The field, such as `outputs[1].stride`."""
    declared: Any
    """What the spec declares now."""
    released: Any
    """What was released; None where there was nothing."""
    note: str
    """What to do about it."""


def lock_path(home: Catalog) -> Path:
    """Return where the lock of `home` lies."""
    return home.folder / RELEASES_FILE


def read_lock(home: Catalog) -> Lock:
    """Return the lock of `home`, empty where it has none yet.

    Raises:
        SpecError: the file cannot be read, or an entry is not what its digest says.
        LimitError: the file is larger than `MAX_BYTES`.
    """
    path = lock_path(home)
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise LimitError(f"{path}: larger than the {MAX_BYTES} bytes that a lock may have, restore it.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        lock = {reference: (entry["released"], entry["digest"]) for reference, entry in document.items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise SpecError(f"{path}: not a lock ({error!r}), restore it from version control.") from None
    for reference, (released, stated) in lock.items():
        if not isinstance(released, dict) or digest(released) != stated:
            raise SpecError(
                f"{path}: the content of {reference} does not have its digest, restore it from version control."
            )
    return {reference: released for reference, (released, _) in lock.items()}


def lock_text(lock: Lock) -> str:
    """Return the text of the lock file: sorted, one line for each locked field."""
    entries = []
    for reference in sorted(lock):
        fields = ",\n".join(f"      {json.dumps(key)}: {_json(value)}" for key, value in lock[reference].items())
        entries.append(
            f'  {json.dumps(reference)}: {{\n    "digest": "{digest(lock[reference])}",\n'
            f'    "released": {{\n{fields}\n    }}\n  }}'
        )
    return "{\n" + ",\n".join(entries) + "\n}\n" if entries else "{}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def content(spec: ModelSpec) -> dict[str, Any]:
    """Return what a release of `spec` holds, complete with defaults, as plain data."""
    return content_of(spec, RELEASED)


def check(spec: ModelSpec, *, home: Catalog | None = None) -> list[ReleaseDifference]:
    """Return what of `spec` is not what was released under its name and version.

    Args:
        spec: a complete spec.
        home: the catalogue that it belongs to, whose lock must have it; without one (a file of the user's),
            it is checked only if some catalogue has released that name and version.

    Raises:
        SpecError: a lock cannot be read.
    """
    released = find_released(spec.reference, home=home)
    if released is not None:
        return compare_release(spec, released)
    if home is None:
        return []
    note = f"not in {lock_path(home)}, add it with: zoo record {spec.reference}"
    return [ReleaseDifference("version", spec.version, None, note)]


def check_released_document(document: Mapping[str, Any], *, home: Catalog | None = None) -> list[ReleaseDifference]:
    """Return what a document that is no valid spec states otherwise than it was released under its name and version.

    Args:
        document: what its file holds.
        home: as in `check`.

    Raises:
        SpecError: a lock cannot be read.
    """
    reference = f"{document.get('name')}@{document.get('version')}"
    released = find_released(reference, home=home)
    if released is None:
        return []
    stated = {field: document[field] for field in RELEASED if field in document}
    return [
        ReleaseDifference(path, declared, before, _note(reference))
        for path, declared, before in _stated_differences(stated, released)
    ]


def find_released(reference: str, *, home: Catalog | None = None) -> dict[str, Any] | None:
    """Return what was released as `reference` (`name@version`), by `home` or any catalogue; None where nothing was.

    Raises:
        SpecError: the lock of `home` cannot be read; of all catalogues, one that cannot is left out, with a warning.
    """
    if home is not None:
        return read_lock(home).get(reference)
    for item in catalog.catalogs():
        try:
            found = read_lock(item).get(reference)
        except (SpecError, LimitError) as error:
            _log.warning("the lock of the catalogue %r of %s is left out: %s", item.name, item.owner, error)
        else:
            if found is not None:
                return found
    return None


def _note(reference: str) -> str:
    return f"the latter was released as {reference}, restore it or give the spec a new version"


def withdrawn(home: Catalog) -> list[str]:
    """Return the released `name@version` of `home` that no spec file declares any more.

    Raises:
        SpecError: the lock cannot be read.
    """
    declared: set[str] = set()
    unreadable: set[str] = set()  # reported where those files are verified
    for entry in catalog.entries("model"):
        if entry.catalog == home:
            try:
                version = entry.version or read_yaml(entry.path).get("version")
            except SpecError:
                unreadable.add(entry.name)
            else:
                declared.add(f"{entry.name}@{version}")
    missing = read_lock(home).keys() - declared
    return sorted(reference for reference in missing if reference.partition("@")[0] not in unreadable)


def compare_release(spec: ModelSpec, released: Mapping[str, Any]) -> list[ReleaseDifference]:
    """Return the fields of `spec` that differ from `released`, each with both values."""
    return [ReleaseDifference(*change, _note(spec.reference)) for change in changes_of(spec, released, fields=RELEASED)]


def _stated_differences(value: Any, released: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Compare plain data; what is stated on one side only is left out."""
    if isinstance(value, dict) and isinstance(released, dict):
        pairs = [(f"{path}.{key}" if path else key, value[key], released[key]) for key in value if key in released]
    elif isinstance(value, list) and isinstance(released, list) and any(isinstance(item, dict) for item in value):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(value, released, strict=False))]
    else:
        return [] if value == released or value is None or released is None else [(path, value, released)]
    return [item for name, mine, theirs in pairs for item in _stated_differences(mine, theirs, name)]
