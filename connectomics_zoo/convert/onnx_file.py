"""Reads an ONNX file: its nodes and its tensors, checked before memory is taken; nothing in it is run.

Tensors may lie in files beside it, as those of more than two gigabytes must: in its own folder alone, and no links.
Source: onnx 1.23, onnx.proto (ModelProto, TensorProto) and docs/ExternalData.md.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from connectomics_zoo.errors import LimitError, MissingPackageError, WeightsError
from connectomics_zoo.schema.limits import MAX_WEIGHTS_BYTES

MAX_FILE_BYTES = 2**31
"""The largest ONNX file; protocol buffers hold no more."""

MAX_NODES = 100_000

_FLOATS = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
"""Types that weights have, by their number in the file (TensorProto.DataType)."""

_EXTERNAL = 1
"""Says that the bytes of a tensor lie in another file (TensorProto.DataLocation)."""

_NESTED = ("If", "Loop", "Scan")
"""Operators that hold graphs of their own, and may never end."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    """Its operator, such as `Conv`."""
    inputs: tuple[str, ...]
    """The names of what it takes; empty for what is left out."""
    outputs: tuple[str, ...]
    """The names of what it gives."""


@dataclass(frozen=True)
class Port:
    """What enters or leaves the graph."""

    name: str
    shape: tuple[int | None, ...]
    """(B, C, Z, Y, X); None where it is not fixed."""


@dataclass(frozen=True)
class OnnxFile:
    """A network as an ONNX file holds it."""

    path: Path
    nodes: tuple[Node, ...]
    """In the order in which they run."""
    tensors: dict[str, Tensor]
    """Floating-point tensors by name: initializers and constants."""
    input: Port
    output: Port
    half_input: bool
    """Whether the input is of half precision."""


def read_onnx(path: Path) -> OnnxFile:
    """Return what the ONNX file at `path` holds.

    Raises:
        MissingPackageError: the package onnx is not installed.
        WeightsError: it is missing, damaged, or no network of one input and one output in ONNX's own operators.
        LimitError: it is too large.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file, check the path.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise LimitError(f"{path}: larger than the {MAX_FILE_BYTES} bytes that an ONNX file may have.")
    onnx = import_onnx()
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # what protobuf raises has no type of its own in all its versions
        raise WeightsError(f"{path}: not a readable ONNX file ({_reason(error)}), get it again.") from None
    graph = model.graph
    _refuse_foreign(model, path)
    initializers = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in initializers]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise WeightsError(
            f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs, and a network here has one of each in "
            "evaluation: export it in evaluation."
        )
    protos = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            value = next((item.t for item in node.attribute if item.name == "value"), None)
            if value is not None:
                protos[node.output[0]] = value
    protos = {name: proto for name, proto in protos.items() if proto.data_type in _FLOATS}
    total = sum(math.prod(proto.dims) * _FLOATS[proto.data_type].itemsize for proto in protos.values())
    if total > MAX_WEIGHTS_BYTES:
        raise LimitError(f"{path}: its tensors take {total} bytes, at most {MAX_WEIGHTS_BYTES} are read.")
    tensors = {name: _tensor(name, proto, path) for name, proto in protos.items()}
    for node in graph.node:  # equal tensors are kept once, and the others are said to be it
        if node.op_type == "Identity" and len(node.input) == len(node.output) == 1 and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    return OnnxFile(
        path=path,
        nodes=tuple(Node(node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node),
        tensors=tensors,
        input=_port(inputs[0]),
        output=_port(graph.output[0]),
        half_input=inputs[0].type.tensor_type.elem_type == 10,
    )


def import_onnx() -> Any:
    """Return the package onnx.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise MissingPackageError(
            "ONNX files are read by the package onnx, which is not installed: run "
            "`pip install 'connectomics-zoo[export]'`."
        ) from None


def _refuse_foreign(model: Any, path: Path) -> None:
    """Refuse what is not made of ONNX's own operators, one after the other."""
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise LimitError(f"{path}: has {len(graph.node)} nodes, at most {MAX_NODES} are read.")
    if not graph.node:
        raise WeightsError(f"{path}: has no nodes, is it an ONNX file?")
    foreign = next((node for node in graph.node if node.domain not in ("", "ai.onnx")), None)
    if foreign is not None or len(model.functions):
        name = foreign.domain if foreign is not None else model.functions[0].domain
        raise WeightsError(
            f"{path}: has operators of {name[:100]!r} beside those of ONNX, export the network in ONNX's own alone."
        )
    nested = next((node.op_type for node in graph.node if node.op_type in _NESTED or _has_graph(node)), None)
    if nested is not None:
        raise WeightsError(f"{path}: has the operator {nested}, whose graph is not looked into: export it without.")
    if len(graph.sparse_initializer):
        raise WeightsError(f"{path}: has sparse tensors, save it with dense ones.")
    inside = [item for node in graph.node for attribute in node.attribute for item in (attribute.t, *attribute.tensors)]
    for item in (*graph.initializer, *inside):  # of every type, since what runs the file reads all of them
        if item.data_location == _EXTERNAL:
            _external_file(item, path)


def _has_graph(node: Any) -> bool:
    return any(attribute.HasField("g") or len(attribute.graphs) for attribute in node.attribute)


def _port(value: Any) -> Port:
    dims = value.type.tensor_type.shape.dim
    return Port(value.name, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims))


def _tensor(name: str, proto: Any, path: Path) -> Tensor:
    """Return one tensor, whose bytes must be as many as it says."""
    dtype = _FLOATS[proto.data_type]
    shape = tuple(proto.dims)
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0:
        raise WeightsError(f"{path}: {name[:100]!r} has a negative size, get it again.")
    if proto.data_location == _EXTERNAL:
        content = _external(proto, size, path)
    elif proto.HasField("raw_data"):
        content = bytearray(proto.raw_data)
    else:
        content = _from_fields(proto, dtype)
    if len(content) != size:
        raise WeightsError(f"{path}: {name[:100]!r} has {len(content)} bytes and not {size}, get it again.")
    return torch.frombuffer(content, dtype=dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def _from_fields(proto: Any, dtype: torch.dtype) -> bytearray:
    """Return the bytes of a tensor that is kept as numbers."""
    if dtype == torch.float32:
        return bytearray(np.array(proto.float_data, dtype=np.float32).tobytes())
    if dtype == torch.float64:
        return bytearray(np.array(proto.double_data, dtype=np.float64).tobytes())
    return bytearray(np.array(proto.int32_data, dtype=np.int64).astype(np.uint16).tobytes())


def _external_file(proto: Any, path: Path) -> Path:
    """Return the file in the folder of `path` in which the bytes of a tensor lie."""
    name, location = proto.name, _entries(proto).get("location", "")
    parts = PurePosixPath(location).parts
    place = path.parent.joinpath(*parts)
    is_inside = bool(parts) and not PurePosixPath(location).is_absolute() and ".." not in parts and "\\" not in location
    if not is_inside or any(item.is_symlink() for item in (place, *place.parents[: len(parts) - 1])):
        raise WeightsError(
            f"{path}: the bytes of {name[:100]!r} lie at {location[:200]!r}, and are read from its own folder alone."
        )
    if not place.is_file():
        raise WeightsError(f"{path}: its file {location[:200]!r} is missing, put it into the same folder.")
    return place


def _external(proto: Any, size: int, path: Path) -> bytearray:
    """Return the bytes of a tensor that lie in another file of the folder of `path`."""
    place, entries = _external_file(proto, path), _entries(proto)
    offset, length = (_number(entries.get(key, usual)) for key, usual in (("offset", "0"), ("length", str(size))))
    if offset is None or length != size or offset + size > place.stat().st_size:
        raise WeightsError(f"{path}: {proto.name[:100]!r} is not wholly in {place.name[:200]!r}, get both again.")
    with place.open("rb") as stream:
        stream.seek(offset)
        return bytearray(stream.read(size))


def _entries(proto: Any) -> dict[str, str]:
    return {item.key: item.value for item in proto.external_data}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
