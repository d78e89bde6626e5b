"""How far the objects that are decoded in blocks differ from those of the whole volume."""

from __future__ import annotations

import sys
from typing import Any

import zoo
from connectomics_zoo.volumes import open_volume
from scaling.common import Section, Settings, table

METHODS: tuple[tuple[str, dict[str, float]], ...] = (
    ("components", {"threshold": 0.9, "min_size": 600}),
    ("watershed", {"threshold": 0.95, "seed_threshold": 0.98, "min_size": 100}),
    ("agglomeration", {"threshold": 0.25, "min_size": 600}),
    ("mutex", {"threshold": 0.3, "min_size": 600}),
    ("mutex", {"threshold": 0.5, "min_size": 600}),
    ("mutex", {"threshold": 0.7, "min_size": 600}),
)


def measure_objects(settings: Settings) -> dict[str, Any] | None:
    """Decode a prediction as a whole and in 8 blocks by every method, and score both against the truth."""
    if settings.prediction is None or settings.truth is None:
        print("scale: objects stays as it is without --prediction and --truth", file=sys.stderr)
        return None
    with open_volume(settings.prediction) as volume:
        shape = volume.shape
    block = [-(-size // 2) for size in shape]
    rows = []
    for method, overrides in METHODS:
        print(f"scale: objects by {method}, {overrides} …", file=sys.stderr)
        whole, parts = (settings.scratch / name for name in ("whole.zarr", "blocks.zarr"))
        for place, edges in ((whole, None), (parts, block)):
            zoo.decode(settings.prediction, place, method=method, overrides=overrides, block=edges, overwrite=True)
        pairs = {"whole": (whole, settings.truth), "blocks": (parts, settings.truth), "between": (parts, whole)}
        errors = {
            name: zoo.evaluate(*pair, kind="instances").scores["adapted_rand_error"] for name, pair in pairs.items()
        }
        rows.append({"method": method, "threshold": overrides["threshold"], **errors})
    return {"shape": list(shape), "block": block, "rows": rows}


def render(data: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        [f"`{row['method']}`", str(row["threshold"]), *(f"{row[name]:.5f}" for name in ("whole", "blocks", "between"))]
        for row in data["rows"]
    ]
    shape, block = (" x ".join(map(str, data[name])) for name in ("shape", "block"))
    headers = ["method", "threshold", "as a whole >", "in 8 blocks >", "blocks against whole >"]
    return (
        f"Adapted Rand error on FIB-25, {shape} voxels in blocks of {block}, against the neurons, and of the two "
        "against each other.\n\n" + table(headers, rows)
    )


SECTION = Section("Objects in blocks and as a whole", measure_objects, render)
