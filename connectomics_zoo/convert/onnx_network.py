"""Finds the network that an ONNX file holds, and its tensors; what it is, a run of both has proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from connectomics_zoo.convert.network import Fit
from connectomics_zoo.convert.onnx_file import OnnxFile, read_onnx
from connectomics_zoo.convert.onnx_order import Matched, match_tensors
from connectomics_zoo.convert.onnx_proof import prove
from connectomics_zoo.errors import WeightsError, ZooError
from connectomics_zoo.network.build import build, build_meta
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.identity import is_same_function
from connectomics_zoo.specs.lookup import every_model
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.keys import KeyMatch


@dataclass(frozen=True)
class OnnxNetwork:
    """A network of the catalogues, or of a spec that was given, with the tensors of an ONNX file."""

    fit: Fit
    tensors: dict[str, Tensor]
    """By key of the network."""
    folded: tuple[str, ...]
    """Batch norms that are a part of the convolution before them."""
    proof: str
    """What was compared."""


def find_onnx_network(path: Path, *, declared: ModelSpec | None) -> OnnxNetwork:
    """Return the network in the ONNX file at `path`.

    Args:
        path: the file.
        declared: the model that it must be, but for its channels; by default the first one of the catalogues that does
            the same.

    Raises:
        WeightsError: the file cannot be read, or is of no such network.
        MissingPackageError: the package onnx is not installed.
        LimitError: the file is too large.
    """
    file = read_onnx(path)
    inputs, outputs = _channels(file)
    if declared is not None:
        return _converted(declared, resolve_model(declared, in_channels=inputs, out_channels=outputs), file)
    errors: list[tuple[ModelSpec, ZooError]] = []
    found: OnnxNetwork | None = None
    same = []
    for model, spec in _candidates(file, inputs, outputs):
        if found is not None:
            same += [model.name] if is_same_function(found.fit.declared, model) else []
            continue
        try:
            found = _converted(model, spec, file)
        except WeightsError as error:
            errors.append((model, error))
    if found is not None:
        fit = Fit(found.fit.declared, found.fit.spec, found.fit.deep_supervision, found.fit.match, tuple(same))
        return OnnxNetwork(fit, found.tensors, found.folded, found.proof)
    if len(errors) == 1:
        raise errors[0][1]
    said = f" ({', '.join(model.name for model, _ in errors)} have these shapes, and do not give its numbers)"
    raise WeightsError(
        f"{path}: is the network of no model here{said if errors else ''}: give the spec of its network by --model."
    )


def _channels(file: OnnxFile) -> tuple[int, int]:
    """Return the channels of the input and the output; both are fixed by convolutions, whatever the file says."""
    channels = []
    for port in (file.input, file.output):
        if len(port.shape) < 2 or port.shape[1] is None:
            raise WeightsError(
                f"{file.path}: does not say the channels of {port.name[:100]!r}, export it with fixed ones."
            )
        channels.append(port.shape[1])
    return channels[0], channels[1]


def _candidates(file: OnnxFile, inputs: int, outputs: int) -> Iterator[tuple[ModelSpec, ModelSpec]]:
    """Yield the models whose convolutions have the shapes of the file's, each also with its channels."""
    rank = len(file.input.shape)
    wanted = Counter(_convolutions_of(file))
    for model in every_model().values():
        if 2 + len(model.input.axes) != rank:
            continue
        try:
            spec = resolve_model(model, in_channels=inputs, out_channels=outputs)
            network = build_meta(spec, deep_supervision=False)
        except ZooError:  # not a number of channels that it can have
            continue
        own = Counter(tuple(tensor.shape) for key, tensor in network.state_dict().items() if tensor.dim() == rank)
        if own == wanted:
            yield model, spec


def _convolutions_of(file: OnnxFile) -> list[tuple[int, ...]]:
    names = {
        node.inputs[1]: None for node in file.nodes if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 1
    }
    return [tuple(file.tensors[name].shape) for name in names if name in file.tensors]


def _converted(declared: ModelSpec, spec: ModelSpec, file: OnnxFile) -> OnnxNetwork:
    """Return `spec`'s network with the tensors of the file, if the two do the same.

    Raises:
        WeightsError: they do not, or a tensor has no counterpart.
    """
    matched = match_tensors(build_meta(spec, deep_supervision=False).eval(), spec, file)
    network = build(spec, deep_supervision=False)
    state = network.state_dict()
    filled = tuple(key for key in state if key not in matched.tensors)
    network.load_state_dict(state | matched.tensors)
    proof = prove(network, spec, file)
    return OnnxNetwork(_fit(declared, spec, matched, filled), matched.tensors, matched.folded, proof)


def _fit(declared: ModelSpec, spec: ModelSpec, matched: Matched, filled: tuple[str, ...]) -> Fit:
    """Return the match as other formats have it: every tensor is by now called as the network's own is."""
    names = matched.names
    is_declared = spec is declared
    return Fit(
        declared,
        declared if is_declared else spec,
        deep_supervision=False,
        match=KeyMatch(
            prefix=names.prefix if names.keys else "",
            keys={key: key for key in matched.tensors},
            renamed=len(matched.by_order) + names.renamed,
            missing=(),
            filled=filled,
            unknown=(),
            outside=(),
        ),
    )
