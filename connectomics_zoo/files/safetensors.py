"""Reads the header of a safetensors file, and refuses what does not add up before a tensor is touched.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, the header in JSON, and
the tensors one after the other without a gap.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from connectomics_zoo.errors import WeightsError

MAX_HEADER = 2 * 2**20
"""Bytes of the longest header: ten times what the largest of our networks needs."""

MAX_TENSORS = 20_000
MAX_RANK = 16
MAX_NAME = 512
MAX_ELEMENTS = 2**48

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "C64": 64,
}  # fmt: skip
"""Bits of an element of each type."""

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar", ".model")
"""Endings of files that are read by unpickling, which can run code."""

_MAGIC = {b"PK": "a zip file, as torch.save writes it", b"\x80": "a pickle"}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str
    """Its type, as safetensors calls it: `F32`, `BF16`, …"""
    shape: tuple[int, ...]
    """Its shape."""
    begin: int
    """Where its bytes begin, from the end of the header."""
    end: int
    """Where they end."""


@dataclass(frozen=True)
class Header:
    """A checked header."""

    tensors: dict[str, TensorInfo]
    """What the file holds, by key."""
    metadata: dict[str, str]
    """What it says about itself."""
    data_begin: int
    """Bytes of the file before the tensors."""


def read_header(path: Path, *, max_header: int = MAX_HEADER) -> Header:
    """Return the header of the safetensors file at `path`; at most `max_header` bytes of it are read.

    Raises:
        WeightsError: it is missing, no safetensors file, damaged, or its numbers do not add up.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileNotFoundError
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            text = _header_text(path, stream.read(8), size=size, max_header=max_header)
            raw = stream.read(text)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such weights file, check the path.") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}), check the path.") from None
    document = _parse(path, raw)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its metadata are no texts")
    if len(document) > MAX_TENSORS:
        _refuse(path, f"its header names {len(document)} tensors, at most {MAX_TENSORS} are read")
    tensors = {name: _tensor(path, name, entry) for name, entry in document.items()}
    _check_cover(path, tensors, data_size=size - 8 - text)
    return Header(tensors, metadata, data_begin=8 + text)


def _refuse(path: Path, what: str) -> NoReturn:
    raise WeightsError(f"{path}: not a readable safetensors file ({what}), get it again.")


def _header_text(path: Path, head: bytes, *, size: int, max_header: int) -> int:
    """Return the length of the header from the first eight bytes."""
    length = int.from_bytes(head, "little")
    for magic, kind in _MAGIC.items():
        # Read as a length, the first bytes of a pickle or zip are more than any header has.
        if head.startswith(magic) and length > max_header:
            raise WeightsError(
                f"{path}: is {kind}, which can run code when it is read, under the name of a safetensors file: "
                "only safetensors is loaded."
            )
    if len(head) < 8:
        _refuse(path, f"it has {size} bytes, fewer than the 8 that every file begins with")
    if length > max_header:
        _refuse(path, f"its header would have {length} bytes, at most {max_header} are read")
    if length < 2 or length > size - 8:
        _refuse(path, f"its header would have {length} bytes, and the file has {size}")
    return length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    """Return the header as data: no constant beyond JSON, no key twice, no number of thousands of digits."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        text = raw.decode("utf-8")
        document = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        _refuse(path, "its header is nested too deeply")
    except ValueError as error:
        _refuse(path, f"its header is damaged: {str(error).splitlines()[0][:100]}")
    if not isinstance(document, dict) or not text.startswith("{"):
        _refuse(path, "its header is no mapping of tensors")
    return document


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    """Return what the header says of one tensor, its numbers checked against each other."""
    shown = repr(name[:60])
    if not 0 < len(name) <= MAX_NAME or re.search(r"[\x00-\x1f\x7f]", name):
        _refuse(path, f"{shown} is no name of a tensor")
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{shown} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        _refuse(path, f"{shown} has the type {str(dtype)[:20]!r}, which nothing here reads")
    if not _are_sizes(shape) or len(shape) > MAX_RANK or not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"{shown} has a shape or offsets that are none")
    elements = 1
    for edge in shape:
        elements *= edge
        if elements > MAX_ELEMENTS:
            _refuse(path, f"{shown} has a shape of more than {MAX_ELEMENTS} elements")
    begin, end = offsets
    if end - begin != elements * _BITS[dtype] // 8:
        _refuse(path, f"{shown} has {end - begin} bytes, and its shape and type need {elements * _BITS[dtype] // 8}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(path: Path, tensors: Mapping[str, TensorInfo], *, data_size: int) -> None:
    """Refuse tensors that overlap, leave a gap, or do not end where the file ends."""
    spans = sorted((tensor.begin, tensor.end) for tensor in tensors.values())
    if spans and spans[0][0] != 0:
        _refuse(path, f"its first tensor begins at byte {spans[0][0]}")
    for (_, end), (begin, _) in pairwise(spans):
        if begin != end:
            _refuse(path, "its tensors overlap" if begin < end else f"there is a gap of {begin - end} bytes in it")
    stated = spans[-1][1] if spans else 0
    if stated > data_size:
        _refuse(path, f"{stated - data_size} bytes are missing at its end")
    if stated < data_size:
        _refuse(path, f"there are {data_size - stated} bytes too many at its end")
