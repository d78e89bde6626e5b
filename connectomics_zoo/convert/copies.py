"""Leaves out tensors that a checkpoint holds more than once under names of one network, as nnU-Net's do."""

from __future__ import annotations

from dataclasses import replace

import torch

from connectomics_zoo.convert.pick import Picked
from connectomics_zoo.errors import WeightsError

_ENCODER = "decoder.encoder."
"""Where the original's decoder holds the encoder once more."""

_LAYERS = ".all_modules."
"""Where each of its blocks holds its layers, `conv` and `norm`, once more, as `all_modules.0` and so on."""


def without_copies(picked: Picked, *, source: str) -> Picked:
    """Return `picked` with every tensor once; a name like a copy's without what it would be a copy of is none.

    Raises:
        WeightsError: what should be a copy differs from what it is one of.
    """
    copies = set()
    for key, tensor in picked.tensors.items():
        if not _is_copy(key):
            continue
        originals = [name for name in _originals(key.replace(_ENCODER, "encoder.")) if name in picked.tensors]
        if not any(_equal(picked.tensors[name], tensor) for name in originals) and originals:
            raise WeightsError(
                f"{source}: {key!r} is a copy of another tensor in nnU-Net's networks and here it is not, so the file "
                "is damaged or of another network."
            )
        copies.update([key] if originals else [])
    if not copies:
        return picked
    kept = {key: tensor for key, tensor in picked.tensors.items() if key not in copies}
    return replace(picked, tensors=kept, copies=len(copies))


def _is_copy(key: str) -> bool:
    return _LAYERS in key or key.startswith(_ENCODER) or f".{_ENCODER}" in key


def _originals(key: str) -> list[str]:
    """Return the names that the tensor which `key` repeats may have: a layer's place in its block does not tell."""
    block, found, layer = key.partition(_LAYERS)
    leaf = layer.rpartition(".")[2]
    return [f"{block}.conv.{leaf}", f"{block}.norm.{leaf}"] if found else [key]


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    if (first.dtype, first.shape, first.stride()) != (second.dtype, second.shape, second.stride()):
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)
