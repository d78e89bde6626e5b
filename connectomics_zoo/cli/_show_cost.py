"""What `zoo show` says of a model's memory and of how far it sees, as recorded of its release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectomics_zoo.schema.model import ModelSpec
    from connectomics_zoo.specs.lookup import Resolved


def cost_facts(spec: ModelSpec, found: Resolved) -> dict[str, str]:
    """Return the facts; none where nothing is recorded of just this network."""
    from connectomics_zoo.specs.costs import read_costs

    if found.entry is None or spec is not found.spec:
        return {}
    cost = read_costs(found.entry.catalog).get(spec.reference)
    if cost is None:
        return {}
    patch = spec.training.patch_size
    facts = {
        "training memory": f"{cost.training_bytes(patch) / 1e9:.1f} GB a patch of {_edges(patch)} on a GPU, "
        f"{cost.precision} (zoo fit says what fits)"
    }
    if not cost.receptive_field:
        return facts
    norm = spec.arch.model_dump().get("norm")
    alone = norm in ("batch", "layer") or spec.input.context is not None  # what is said does not depend on the window
    beside = "" if alone else "; its norms see the whole window"
    if None in cost.receptive_field:
        facts["receptive field"] = f"the whole window{beside}"
    else:
        facts["receptive field"] = (
            f"{_edges(cost.receptive_field)} voxels by convolutions, {_edges(cost.halo)} before or behind{beside}"
        )
    return facts


def _edges(edges: Sequence[int | None]) -> str:
    return " × ".join(map(str, edges))
