"""Takes out of an experiment what it says of volumes that the user replaces by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectomics_zoo.schema.experiment import REQUIRED
from connectomics_zoo.specs.overrides import merge

_OF_A_VOLUME = ("label", "annotated", "mask", "region", "regions")
_OF_ANY = ("license", "attribution")
"""What is wrong as soon as one volume is another."""
_OF_ALL = ("voxel_size_nm", "intensity_range", "unlabelled", "background")
"""What is wrong when all of them are others."""


def without_replaced(document: dict[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return an experiment's document without what it says of the volumes that overrides replace, and the keys of that.

    A volume is replaced where its image is another one. Its labels, mask and region go with it, and licence and
    attribution of the data; if no volume is left, also the voxel size, the grey values, the label that means nothing,
    and a folder that had to be given.

    Args:
        document: the experiment, before `overrides` are merged in.
        overrides: nested fields to change.
    """
    data, changes = document.get("data"), overrides.get("data")
    if not isinstance(data, dict) or not isinstance(changes, Mapping):
        return document, []
    after = merge(data, changes)
    kept, dropped, replaced, left = dict(data), [], 0, 0
    for part in ("train", "validation"):
        if isinstance(after.get(part), str) or (part == "validation" and after.get("hold_out") is not None):
            continue  # of the same volumes
        before, now = _as_list(data.get(part)), _as_list(after.get(part))
        others = [index for index, pair in enumerate(before) if _image(now, index) != pair.get("image")]
        kept[part] = [
            {key: value for key, value in pair.items() if index not in others or key not in _OF_A_VOLUME}
            for index, pair in enumerate(before)
        ]
        dropped += [f"data.{part}.{index}.{key}" for index in others for key in _OF_A_VOLUME if key in before[index]]
        replaced, left = replaced + len(others), left + len(before) - len(others)
    if not replaced:
        return document, []
    fields = [*_OF_ANY, *(_OF_ALL if not left else ())]
    if not left and data.get("root") == REQUIRED:
        fields.append("root")
    dropped += [f"data.{key}" for key in fields if kept.pop(key, None) is not None]
    return {**document, "data": kept}, dropped


def _as_list(pairs: Any) -> Sequence[Mapping[str, Any]]:
    """Return the pairs of a part, of which one may stand for a list."""
    return [pairs] if isinstance(pairs, Mapping) else pairs or []


def _image(pairs: Sequence[Mapping[str, Any]], index: int) -> Any:
    return pairs[index].get("image") if index < len(pairs) else None
