"""Reads the weights out of the archive that `torch.export.save` writes (.pt2); the program in it is left alone.

The archive is a zip file. Its weights are plain bytes, described by a JSON file for each program: type, shape, strides.
Nothing is unpickled; a tensor that is pickled, as tensor subclasses are, is refused.
Source: torch 2.13, torch/export/pt2_archive/_package.py and torch/_export/serde/schema.py (PayloadMeta, TensorMeta).
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from connectomics_zoo.errors import LimitError, WeightsError

MAX_CONFIG_BYTES = 64 * 2**20
"""The largest JSON file that describes weights; it has 400 bytes for each tensor."""

_MAX_RANK = 16

_WEIGHTS = "data/weights/"
_CONFIG = "_weights_config.json"
_LEGACY = (".pt", "serialized_state_dict.json", "serialized_state_dict.pt")

_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Types of tensors by their number in the archive (ScalarType)."""

_STRIDED = 7
"""The layout of a plain tensor."""


def is_exported_program(records: Iterable[str]) -> bool:
    """Whether a zip file with `records`, named without their top folder, is what `torch.export.save` writes."""
    names = set(records)
    return "archive_format" in names or any(name.startswith("serialized_exported_program") for name in names)


def read_exported_program(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each program in the archive at `path`, by its name, which is `model` where there is one.

    Raises:
        WeightsError: it is damaged, has no weights, or has some that are not plain bytes.
        LimitError: what describes its weights is too large.
    """
    with zipfile.ZipFile(path) as archive:
        records = {item.filename.partition("/")[2]: item for item in archive.infolist()}
        configs = [name for name in records if name.startswith(_WEIGHTS) and name.endswith(_CONFIG)]
        if not configs:
            _refuse_without_weights(path, records)
        if any(item.compress_type != zipfile.ZIP_STORED for item in records.values()):
            raise WeightsError(f"{path}: compressed, which torch.export.save does not do, save it anew.")
        damaged = archive.testzip()
        if damaged is not None:
            raise WeightsError(f"{path}: damaged, its record {damaged!r} fails its checksum, get it again.")
        programs = {}
        for name in configs:
            if records[name].file_size > MAX_CONFIG_BYTES:
                raise LimitError(f"{path}: {name} is larger than the {MAX_CONFIG_BYTES} bytes that it may have.")
            described = _described(json.loads(archive.read(records[name])))
            storages = {item["path_name"] for item in described.values()}
            missing = sorted(item for item in storages if _WEIGHTS + item not in records)
            if missing:
                raise WeightsError(f"{path}: its record {missing[0]!r} is missing, get it again.")
            content = {item: bytearray(archive.read(records[_WEIGHTS + item])) for item in storages}
            program = name.removeprefix(_WEIGHTS).removesuffix(_CONFIG)
            programs[program] = {
                key: _tensor(key, item, content[item["path_name"]], path=path) for key, item in described.items()
            }
    return programs


def _refuse_without_weights(path: Path, records: Mapping[str, object]) -> NoReturn:
    if any(name.startswith("data/aotinductor/") for name in records):
        raise WeightsError(f"{path}: a program that AOTInductor compiled, save the weights of its network alone.")
    if any(name.endswith(_LEGACY) and not name.startswith("data/sample_inputs/") for name in records):
        version = torch.__version__.partition("+")[0]
        raise WeightsError(
            f"{path}: its weights are a pickle in it, as older versions of PyTorch wrote exported programs: load it "
            f"there and save its state dict alone, or save the program by PyTorch {version}."
        )
    raise WeightsError(f"{path}: an archive of torch.export without weights, save the program or its state dict.")


def _described(document: Any) -> dict[str, Any]:
    """Return what a JSON file says of each tensor; what is not of the form of such a file raises a KeyError or so."""
    config = document["config"]
    if not isinstance(config, dict) or not all(isinstance(item["path_name"], str) for item in config.values()):
        raise TypeError("its description of weights is none")
    return config


def _tensor(key: str, item: Mapping[str, Any], content: bytearray, *, path: Path) -> Tensor:
    """Return one tensor, which must lie in the bytes of its record and be no larger than they are."""
    if item["use_pickle"]:
        raise WeightsError(f"{path}: {key[:100]!r} is pickled, which could run code: save a plain tensor in its place.")
    meta = item["tensor_meta"]
    dtype = _DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != _STRIDED:
        raise WeightsError(f"{path}: {key[:100]!r} is of a type or layout that networks here do not have.")
    shape, strides = ([_number(value) for value in meta[field]] for field in ("sizes", "strides"))
    offset = _number(meta["storage_offset"])
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise TypeError(f"{key[:100]!r} has {len(shape)} sizes and {len(strides)} strides")
    elements, room = math.prod(shape), len(content) // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if elements and (elements > room or last >= room):
        raise WeightsError(f"{path}: {key[:100]!r} is larger than its bytes in the file, get it again.")
    if not elements:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(content, dtype=dtype, count=room)
    return flat.as_strided(shape, strides, offset)


def _number(value: Any) -> int:
    """Return a size, stride or offset; one that depends on the input (a symbol) is no size of a weight."""
    number = value["as_int"]
    if type(number) is not int or not 0 <= number < 2**48:
        raise TypeError("a size in it is none")
    return number
