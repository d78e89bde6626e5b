"""Whether a weights file is of a network, by its header alone: every key, shape and type."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from connectomics_zoo.errors import WeightsError
from connectomics_zoo.files.safetensors import read_header
from connectomics_zoo.network.build import build_meta
from connectomics_zoo.schema.model import ModelSpec

_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
_DTYPES = {"torch.float32": "F32", "torch.float64": "F64", "torch.int64": "I64", "torch.int32": "I32"}
"""Names of torch's types in a safetensors file."""

_Tensor = tuple[list[int], str | None]
"""Shape and type."""


class Misfit(NamedTuple):
    """A tensor in which a file and a network differ."""

    key: str
    """Its name."""
    expected: _Tensor | None
    """The network's shape and type; None where the network has no such tensor."""
    found: _Tensor | None
    """The file's; None where the file has none."""


def find_misfits(spec: ModelSpec, path: Path) -> list[Misfit]:
    """Return where the file at `path` differs from the network of `spec` with all heads, or without.

    Floats may be stored in another precision. No tensor is read.

    Raises:
        WeightsError: it is missing, a pickle, or no safetensors file.
    """
    found: dict[str, _Tensor] = {
        key: (list(tensor.shape), tensor.dtype) for key, tensor in read_header(path).tensors.items()
    }
    with_heads, without = (
        {
            key: (list(tensor.shape), _DTYPES.get(str(tensor.dtype)))
            for key, tensor in build_meta(spec, deep_supervision=supervised).state_dict().items()
        }
        for supervised in (len(spec.outputs) > 1, False)
    )
    expected = without if found.keys() == without.keys() else with_heads
    return [
        Misfit(key, expected.get(key), found.get(key))
        for key in sorted(found.keys() | expected.keys())
        if not _alike(expected.get(key), found.get(key))
    ]


def refuse_misfit(spec: ModelSpec, path: Path, *, source: str) -> None:
    """Refuse a file that is not of the network of `spec`; `source` names it in the error.

    Raises:
        WeightsError: it is not.
    """
    misfits = find_misfits(spec, path)
    if misfits:
        first = misfits[0]
        raise WeightsError(
            f"{source}: is no weights file of {spec.name}, {len(misfits)} tensors differ ({first.key}: the network has "
            f"{_describe(first.expected)}, the file {_describe(first.found)}): tell its owner."
        )


def _alike(expected: _Tensor | None, found: _Tensor | None) -> bool:
    if expected is None or found is None or expected[0] != found[0]:
        return False
    return expected[1] == found[1] or {expected[1], found[1]} <= _FLOATS


def _describe(tensor: _Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor[0]} {tensor[1]}"
