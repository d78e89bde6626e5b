"""Places that a run names, and whether they mean anything on another machine."""

from __future__ import annotations

import re

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import REQUIRED, DataSpec, RunSpec


def check_portable(run: RunSpec, *, source: str) -> None:
    """Refuse a run that comes from elsewhere and names places outside of a folder that the user would give.

    Raises:
        SpecError: `data.root` is a folder, a volume lies elsewhere than below it, or the weights that the run started
            from do.
    """
    strange = [place for place in volumes_of(run.data) if is_elsewhere(place)]
    if run.init_from is not None and is_private_source(run.init_from):
        strange.append(run.init_from)
    if run.data.root not in (None, REQUIRED):
        strange.insert(0, run.data.root)
    if strange:
        raise SpecError(
            f"{source}: names the place {strange[0]!r}, a spec from elsewhere may name files below data.root alone: "
            "tell its owner."
        )


def volumes_of(data: DataSpec) -> list[str]:
    """Return the places of all volumes that `data` names: images, labels and masks."""
    return [place for pair in (*data.train, *data.validation) for place in pair.places]


def is_private_source(init_from: str) -> bool:
    """Whether weights to start from are a place of one machine: not on the Hub, and no relative path or reference."""
    return not init_from.startswith("hf://") and is_elsewhere(init_from)


def is_elsewhere(place: str) -> bool:
    """Whether a path is absolute, leads upwards, or names a protocol, in the spelling of any system."""
    parts = re.split(r"[/\\]", place)
    return (
        place.startswith(("/", "\\", "~"))
        or ".." in parts
        or "://" in place
        or re.match(r"^[A-Za-z]:[/\\]", place) is not None
    )
