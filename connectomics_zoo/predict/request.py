"""What a prediction is asked for, as it is written into a job's folder: a worker elsewhere is told the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.errors import SpecError
from connectomics_zoo.network.device import AskedPrecision, Engine
from connectomics_zoo.predict.checks import DType, Output
from connectomics_zoo.schema.experiment import Merge, Views
from connectomics_zoo.volumes.uri import is_uri
from connectomics_zoo.weights.pretrained import Frozen

References = str | Path | Sequence[str | Path]
"""One reference, or those of the members of an ensemble."""


@dataclass(frozen=True)
class Request:
    """What `predict` is asked for; see there."""

    run: str
    volume: str
    out: str
    window: tuple[int, ...] | None
    overlap: float | None
    views: Views | None
    merge: Merge | None
    intensity_range: tuple[float, float] | None
    device: str
    engine: Engine
    precision: AskedPrecision
    batch_size: int
    output: Output
    dtype: DType
    region: str | None
    mask: str | None
    frozen: Frozen
    multiscale: bool = False
    voxel_size_nm: tuple[float, float, float] | None = None
    others: tuple[str, ...] = ()
    """Further members of an ensemble, beside `run`."""
    spread: str | None = None
    """Where the spread is written."""

    def portable(self) -> dict[str, Any]:
        """Return it as JSON has it, with paths that hold in any folder."""
        document = dataclasses.asdict(self)
        document["volume"], document["out"] = absolute(self.volume), absolute(self.out)
        document["mask"] = None if self.mask is None else absolute(self.mask)
        document["spread"] = None if self.spread is None else absolute(self.spread)
        document["run"], *others = (_anywhere(reference) for reference in (self.run, *self.others))
        document["others"] = others
        if not isinstance(self.frozen, bool):
            document["frozen"] = str(Path(self.frozen).absolute())
        return document

    @classmethod
    def of(cls, document: dict[str, Any]) -> Request:
        """Return what `portable` has written."""
        lists = {key: tuple(value) for key, value in document.items() if isinstance(value, list)}
        return cls(**{**document, **lists})


def _anywhere(reference: str) -> str:
    """Return a reference such that it holds in any folder."""
    local = Path(reference).expanduser()
    return str(local.absolute()) if local.exists() else reference


def split_references(run: References) -> tuple[str, tuple[str, ...]]:
    """Return the first reference, and the others where `run` is a list of them.

    Raises:
        SpecError: the list is empty.
    """
    if isinstance(run, str | Path):
        return str(run), ()
    if not run:
        raise SpecError("the list of references is empty, give one or more: a run folder, or the name of weights.")
    first, *others = map(str, run)
    return first, tuple(others)


def absolute(location: str) -> str:
    """Return the location of a volume such that it holds in any folder."""
    return location if is_uri(location) else str(Path(location).expanduser().absolute())


def as_tuple(numbers: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return a list of numbers as a tuple."""
    return None if numbers is None else tuple(numbers)
