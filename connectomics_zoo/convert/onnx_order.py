"""Which tensor of an ONNX file is which of a network: by its name where that was kept, else by the order of use.

Exporters keep the names of a state dict, but not of tensors that they have computed with beforehand: those of norms
are given the shape of the image, matrices are transposed, and a batch norm becomes a part of the convolution before it.
Both the modules of the network and the nodes of the graph run in one order, so that of what has no name, the first
tensor of a kind and shape is the first one of the network's, and so on. Whether that is right, a run of both decides.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from connectomics_zoo.convert.onnx_file import OnnxFile
from connectomics_zoo.errors import WeightsError
from connectomics_zoo.fastpath import plain_only
from connectomics_zoo.schema.builder import inert_keys
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.weights.keys import KeyMatch, match_keys

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.InstanceNorm3d)

_ROLES: dict[str, tuple[str, ...]] = {
    "Conv": ("", "convolution", "shift"),
    "ConvTranspose": ("", "transposed convolution", "shift"),
    "BatchNormalization": ("", "scale", "shift", "mean", "variance"),
    "GroupNormalization": ("", "scale", "shift"),
    "LayerNormalization": ("", "scale", "shift"),
    "PRelu": ("", "slope"),
    "Gemm": ("", "matrix", "shift"),
    "MatMul": ("matrix", "matrix"),
    "Mul": ("scale", "scale"),
    "Add": ("shift", "shift"),
}
"""What the inputs of an operator are, in their order."""

_INSTANCE_NORM = {"InstanceNormalization": ("", "scale", "shift")}
"""The same, where the network has such norms with tensors; else they are steps of group norms, and have none."""

_PASSES_ON = ("Reshape", "Unsqueeze", "Squeeze", "Transpose", "Cast")
"""Operators whose first input, a tensor of the file, is what they give."""


@dataclass
class Matched:
    """The tensors of a network, out of an ONNX file."""

    tensors: dict[str, Tensor]
    """By key of the network."""
    names: KeyMatch
    """Which of them were found by name."""
    by_order: tuple[str, ...] = ()
    """Keys of those that were found by the order of use."""
    folded: tuple[str, ...] = ()
    """Batch norms that are a part of the convolution before them, and change nothing any more in evaluation."""


@dataclass
class _Use:
    """A tensor of the network or of the file, where it is used."""

    name: str
    role: str
    shape: tuple[int, ...]


@dataclass
class _Call:
    """A module that ran, with its own tensors."""

    path: str
    module: nn.Module
    uses: list[_Use] = field(default_factory=list)


def match_tensors(network: nn.Module, spec: ModelSpec, file: OnnxFile) -> Matched:
    """Return the tensors of `network` (on the meta device, in evaluation) that `file` holds.

    Raises:
        WeightsError: one of either has no counterpart.
    """
    state = network.state_dict()
    by_name = match_keys(state.keys(), file.tensors.keys(), builder=spec.builder)[0]
    calls = _calls(network, spec)
    has_instance_norms = any(isinstance(call.module, (nn.InstanceNorm2d, nn.InstanceNorm3d)) for call in calls)
    used = _uses(file, _ROLES | _INSTANCE_NORM if has_instance_norms else _ROLES)
    tensors: dict[str, Tensor] = {}
    taken: set[str] = set()
    for key, name in by_name.keys.items():
        if tuple(file.tensors[name].shape) == tuple(state[key].shape):
            tensors[key] = file.tensors[name]
            taken.add(name)
    is_known = set(tensors)
    left = _queues(used, taken)
    folded = []
    for before, call in zip([None, *calls], calls, strict=False):
        if isinstance(call.module, _BATCH_NORMS) and _is_folded(call, tensors, left):
            tensors |= _changing_nothing(call, before, left, state, file)
            folded.append(call.path)
            continue
        for use in call.uses:
            if use.name not in tensors and not _is_inert(use.name, spec):
                tensors[use.name] = _next(use, left, file, state[use.name])
    _refuse_rest(state, tensors, left, spec, file)
    return Matched(tensors, by_name, tuple(key for key in tensors if key not in is_known), tuple(folded))


# The network's side ---------------------------------------------------------------------------------------------------


def _calls(network: nn.Module, spec: ModelSpec) -> list[_Call]:
    """Return the modules with tensors of their own, in the order in which they run."""
    calls: dict[str, _Call] = {}
    names = {module: path for path, module in network.named_modules()}

    def note(module: nn.Module, *_: object) -> None:
        path = names[module]
        if path not in calls:
            calls[path] = _Call(path, module, list(_own(path, module)))

    handles = [module.register_forward_pre_hook(note) for module in names if any(_own(names[module], module))]
    try:
        with torch.no_grad(), plain_only():
            network(torch.empty(1, spec.input.channels, *spec.input.size.minimum, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values())


def _own(path: str, module: nn.Module) -> Iterable[_Use]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in own:
        if name != "num_batches_tracked":
            yield _Use(f"{path}.{name}" if path else name, _role(module, name), tuple(tensor.shape))


def _role(module: nn.Module, name: str) -> str:
    if name == "bias":
        return "shift"
    if isinstance(module, _BATCH_NORMS) and name.startswith("running_"):
        return {"running_mean": "mean", "running_var": "variance"}[name]
    if isinstance(module, (*_BATCH_NORMS, *_NORMS)):
        return "scale"
    if isinstance(module, nn.PReLU):
        return "slope"
    if isinstance(module, nn.Linear):
        return "matrix"
    if isinstance(module, _TRANSPOSED):
        return "transposed convolution"
    return "convolution" if isinstance(module, _CONVOLUTIONS) else "other"


# The file's side ------------------------------------------------------------------------------------------------------


def _uses(file: OnnxFile, roles: Mapping[str, tuple[str, ...]]) -> list[_Use]:
    """Return the tensors of the file where the graph first uses them as weights, in the order in which it runs."""
    origin = {name: name for name in file.tensors}
    uses: dict[str, _Use] = {}
    for node in file.nodes:
        if node.op in _PASSES_ON and node.inputs and node.inputs[0] in origin and node.outputs:
            origin[node.outputs[0]] = origin[node.inputs[0]]
            continue
        for name, role in zip(node.inputs, roles.get(node.op, ()), strict=False):
            source = origin.get(name)
            if source is None or not role or source in uses:
                continue
            tensor = file.tensors[source]
            if tensor.numel() > 1 or node.op not in ("Mul", "Add"):  # where a number alone is one of a formula
                uses[source] = _Use(source, role, tuple(tensor.shape))
    return list(uses.values())


_Queues = dict[tuple[str, tuple[int, ...]], "deque[_Use]"]


def _queues(uses: Iterable[_Use], taken: set[str]) -> _Queues:
    """Return the uses that have no name of the network's, by role and shape, each in the order of the graph."""
    queues: _Queues = defaultdict(deque)
    for use in uses:
        if use.name not in taken:
            queues[use.role, _bare(use.role, use.shape)].append(use)
    return queues


def _bare(role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape by which tensors of a role are compared: vectors without axes of 1, matrices either way."""
    if role in ("scale", "shift", "slope", "mean", "variance"):
        return tuple(edge for edge in shape if edge != 1) or (1,)
    return tuple(sorted(shape)) if role == "matrix" else shape


def _next(use: _Use, left: _Queues, file: OnnxFile, wanted: Tensor) -> Tensor:
    """Return the tensor that the graph uses next for what `use` is in the network."""
    queue = left.get((use.role, _bare(use.role, use.shape)))
    if not queue:
        raise WeightsError(
            f"{file.path}: has no tensor for {use.name}, a {use.role} of shape {list(use.shape)}, neither by name nor "
            "by the order of its nodes: give the spec of its network by --model, or export it without folding."
        )
    tensor = file.tensors[queue.popleft().name]
    if use.role == "matrix" and tuple(tensor.shape) != tuple(wanted.shape):
        tensor = tensor.T
    return tensor.reshape(wanted.shape)


# Folded batch norms ---------------------------------------------------------------------------------------------------


def _is_folded(call: _Call, tensors: Mapping[str, Tensor], left: _Queues) -> bool:
    """Whether the file has nothing of a batch norm: its running mean is by no name and in no node."""
    mean = next(use for use in call.uses if use.role == "mean")
    return mean.name not in tensors and not left.get(("mean", _bare("mean", mean.shape)))


def _changing_nothing(
    call: _Call, before: _Call | None, left: _Queues, state: Mapping[str, Tensor], file: OnnxFile
) -> dict[str, Tensor]:
    """Return tensors of a batch norm that only adds what the convolution before it has no bias for."""
    norm = call.module
    assert isinstance(norm, _BATCH_NORMS)
    width = norm.num_features
    shift = torch.zeros(width)
    if before is not None and getattr(before.module, "bias", None) is None:
        queue = left.get(("shift", _bare("shift", (width,))))
        if queue:
            shift = file.tensors[queue.popleft().name].reshape(width).float()
    values = {
        "scale": torch.full((width,), (1 + norm.eps) ** 0.5),
        "shift": shift,
        "mean": torch.zeros(width),
        "variance": torch.ones(width),
    }
    found = {use.name: values[use.role] for use in call.uses}
    counter = f"{call.path}.num_batches_tracked"
    return found | ({counter: torch.zeros(())} if counter in state else {})


def _is_inert(key: str, spec: ModelSpec) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in inert_keys(spec.builder))


def _refuse_rest(
    state: Mapping[str, Tensor], tensors: dict[str, Tensor], left: _Queues, spec: ModelSpec, file: OnnxFile
) -> None:
    """Refuse tensors of either side that have no counterpart; counters of batches begin anew."""
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    missing = [key for key in state if key not in tensors and not _is_inert(key, spec)]
    if missing:
        raise WeightsError(
            f"{file.path}: has no tensor for {missing[0]} of {spec.name}, which no module of its own uses: convert a "
            "checkpoint of the network instead."
        )
    rest = [use for queue in left.values() for use in queue]
    if rest:
        raise WeightsError(
            f"{file.path}: its {rest[0].role} {rest[0].name[:100]!r} of shape {list(rest[0].shape)} is none of "
            f"{spec.name}: give the spec of its network by --model."
        )
