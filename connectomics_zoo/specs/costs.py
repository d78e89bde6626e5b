"""What models cost in memory and how far they see, as recorded beside a catalogue's lock; read without torch.

`specs/costs.json` maps `name@version` to what `zoo record --costs` has counted of that release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connectomics_zoo.catalog import Catalog
from connectomics_zoo.errors import SpecError

COSTS_FILE = "specs/costs.json"
"""Where a catalogue's costs lie in its folder."""

MARGIN = 0.15
"""Of a memory that is left free: how far the count may be off (docs/which-model.md)."""


@dataclass(frozen=True)
class Cost:
    """What a release costs on a GPU, and how far it sees."""

    precision: str
    """Arithmetic of its recipe, in which training is counted; prediction is counted in float32."""
    training_fixed: int
    """Bytes of a training step that no patch changes: weights, gradients, AdamW's averages, the program."""
    training_voxel: float
    """Bytes a voxel of the batch."""
    prediction_fixed: int
    """Bytes of a prediction that no window changes."""
    prediction_voxel: float
    """Bytes a voxel of the windows that are predicted together."""
    receptive_field: tuple[int | None, ...]
    """Voxels (z, y, x) that a voxel of the output depends on by convolutions; None: all of them; empty: unknown."""
    halo: tuple[int | None, ...]
    """Voxels that these reach before and behind it, whichever is more."""

    def training_bytes(self, patch: Sequence[int], *, batch: int = 1) -> int:
        """Return what a training step takes, in bytes, for a patch (z, y, x)."""
        return self.training_fixed + int(self.training_voxel * batch * math.prod(patch))


Costs = dict[str, Cost]
"""By `name@version`."""


def costs_path(home: Catalog) -> Path:
    """Return where the costs of `home` lie."""
    return home.folder / COSTS_FILE


def read_costs(home: Catalog) -> Costs:
    """Return the costs of `home`, empty where none are recorded.

    Raises:
        SpecError: the file is not what `costs_text` writes.
    """
    path = costs_path(home)
    if not path.is_file():
        return {}
    try:
        return {name: _cost(entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SpecError(
            f"{path}: no recorded costs ({error}), restore it or write it anew: zoo record --costs."
        ) from None


def _cost(entry: Mapping[str, Any]) -> Cost:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Cost(**values)


def costs_text(costs: Mapping[str, Cost]) -> str:
    """Return the text of the file: sorted, one line for each release."""
    lines = [f"  {json.dumps(name)}: {json.dumps(asdict(costs[name]))}" for name in sorted(costs)]
    return "{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n"
