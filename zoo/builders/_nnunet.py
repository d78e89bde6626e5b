"""The U-Nets of nnU-Net's plans in the terms of the builder `nnunet_unet`, and back (no torch here)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.base import Node
from connectomics_zoo.schema.plans import PlannedNetwork, PlansRequest
from connectomics_zoo.schema.validation import validate

if TYPE_CHECKING:
    from zoo.builders.nnunet_unet import Config

MARKER = "decoder.seg_layers.0.weight"
"""A tensor of both U-Nets."""

ENCODERS = {"ResidualEncoderUNet": "residual", "PlainConvUNet": "plain"}
"""The classes of the two U-Nets, and what `encoder` says of them."""

MODELS = {"residual": "nnunet-resenc-M", "plain": "nnunet-plain"}

_PACKAGE = "dynamic_network_architectures"

_ACTIVATIONS = {"LeakyReLU": "leakyrelu", "ReLU": "relu", "GELU": "gelu", "SiLU": "swish"}

_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}

_AFFINE_BY_DEFAULT = {"instance": False, "batch": True}

_Numbers = int | Annotated[tuple[int, ...], Field(strict=False, max_length=16)]
_Edges = (
    int
    | Annotated[
        tuple[int | Annotated[tuple[int, ...], Field(strict=False, max_length=3)], ...],
        Field(strict=False, max_length=16),
    ]
)
_Arguments = dict[str, bool | int | float | str | None]


class UNetArguments(Node):
    """`arch_kwargs` of plans, with the defaults of dynamic-network-architectures 0.4.4."""

    n_stages: Annotated[int, Field(ge=2, le=16)]
    features_per_stage: _Numbers
    conv_op: str
    kernel_sizes: _Edges
    strides: _Edges
    n_blocks_per_stage: _Numbers | None = None
    n_conv_per_stage: _Numbers | None = None
    n_conv_per_stage_decoder: _Numbers
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: _Arguments | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: _Arguments | None = None
    nonlin: str | None = None
    nonlin_kwargs: _Arguments | None = None
    deep_supervision: bool = False
    nonlin_first: bool = False
    block: str | None = None
    bottleneck_channels: _Numbers | None = None
    stem_channels: int | None = None


def translate(request: PlansRequest) -> PlannedNetwork:
    """Return the U-Net of plans in our terms.

    Batch norm is told by its tensors: there are trainers that have it whatever the plans say.

    Raises:
        SpecError: the plans have another network, or ask for layers that no model here has.
    """
    name, arguments = _architecture(request.configuration)
    encoder = ENCODERS.get(_last(name))
    if encoder is None:
        raise _no_model(f"network_class_name {name!r}", f"is none of {', '.join(ENCODERS)}")
    given = validate(UNetArguments, arguments, source="plans: arch_kwargs")
    dims = {"Conv2d": 2, "Conv3d": 3}.get(_last(given.conv_op))
    if dims is None:
        raise _no_model(f"conv_op {given.conv_op!r}", "is neither Conv2d nor Conv3d")
    levels = given.n_stages
    strides = _edges(given.strides, levels, dims)
    if max(strides[0], default=1) != 1:
        raise _no_model(f"strides[0] {list(strides[0])}", "makes an output coarser than the input")
    counts = given.n_blocks_per_stage if encoder == "residual" else given.n_conv_per_stage
    if counts is None:
        field = "n_blocks_per_stage" if encoder == "residual" else "n_conv_per_stage"
        raise SpecError(f"plans: arch_kwargs has no {field}, which a {_last(name)} needs.")
    arch: dict[str, Any] = {
        "encoder": encoder,
        "channels": _numbers(given.features_per_stage, levels),
        "kernel_sizes": _edges(given.kernel_sizes, levels, dims),
        "strides": strides[1:],
        "encoder_blocks": _numbers(counts, levels),
        "decoder_blocks": _numbers(given.n_conv_per_stage_decoder, levels - 1),
        "bias": given.conv_bias,
        "activation_first": given.nonlin_first,
        "dropout": _dropout(given),
        **_norm(given, request.shapes),
        **_activation(given),
    }
    if encoder == "residual":
        arch["stem_channels"] = given.stem_channels
        if given.block is not None and _last(given.block) == "BottleneckD" and given.bottleneck_channels is not None:
            arch["bottleneck_channels"] = _numbers(given.bottleneck_channels, levels)
    stem = "encoder.stem.convs.0" if encoder == "residual" else "encoder.stages.0.0.convs.0"
    return PlannedNetwork(
        model=MODELS[encoder],
        arch=arch,
        in_channels=_size(request.shapes, f"{stem}.conv.weight", axis=1),
        out_channels=_size(request.shapes, MARKER, axis=0),
    )


def describe(config: Config) -> Mapping[str, Any]:
    """Return the section `architecture` of plans that nnU-Net builds the network of `config` from."""
    dims = len(config.kernel_sizes[0])
    residual = config.encoder == "residual"
    norm = next((name for name, value in _NORMS.items() if value == config.norm), None)
    activation = next(name for name, value in _ACTIVATIONS.items() if value == config.activation)
    arguments: dict[str, Any] = {
        "n_stages": len(config.channels),
        "features_per_stage": list(config.channels),
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [list(kernel) for kernel in config.kernel_sizes],
        "strides": [[1] * dims, *(list(stride) for stride in config.strides)],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": list(config.encoder_blocks),
        "n_conv_per_stage_decoder": list(config.decoder_blocks),
        "conv_bias": config.bias,
        "norm_op": None if norm is None else f"torch.nn.modules.{norm.lower()}.{norm}{dims}d",
        "norm_op_kwargs": None if norm is None else {"eps": config.norm_epsilon, "affine": config.norm_affine},
        "dropout_op": f"torch.nn.Dropout{dims}d" if config.dropout else None,
        "dropout_op_kwargs": {"p": config.dropout} if config.dropout else None,
        "nonlin": f"torch.nn.{activation}",
        "nonlin_kwargs": {"negative_slope": config.negative_slope} if activation == "LeakyReLU" else {},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    if not residual:
        arguments["nonlin_first"] = config.activation_first
    else:
        arguments["stem_channels"] = config.stem_channels
        if config.bottleneck_channels is not None:
            arguments["block"] = f"{_PACKAGE}.building_blocks.residual.BottleneckD"
            arguments["bottleneck_channels"] = list(config.bottleneck_channels)
            imported.append("block")
    name = next(name for name, encoder in ENCODERS.items() if encoder == config.encoder)
    return {
        "network_class_name": f"{_PACKAGE}.architectures.unet.{name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": imported,
    }


def repeats(config: Config, keys: Iterable[str]) -> Mapping[str, str]:
    """Return every name that the original's state dict has, with the one of `keys` whose tensor it is.

    A layer lies in its block under its own name and, by its place, in `all_modules`; the encoder lies in the decoder,
    too.
    """
    names: dict[str, str] = {}
    for key in keys:
        block, layer, leaf = ([""] * 3 + key.rsplit(".", 2))[-3:]
        mine = [key]
        if layer in ("conv", "norm"):
            place = 0 if layer == "conv" else 1 + _drops(config, block) + config.activation_first
            mine.append(f"{block}.all_modules.{place}.{leaf}")
        names.update(dict.fromkeys((*mine, *(f"decoder.{name}" for name in mine if name.startswith("encoder."))), key))
    return names


def _drops(config: Config, block: str) -> bool:
    """Whether the block has dropout between its convolution and its norm."""
    name = block.rpartition(".")[2]
    dropped = "conv1" if config.bottleneck_channels is None else "conv2"
    return config.dropout > 0 and (name == dropped or block.rpartition(".")[0].endswith(".convs"))


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the class of the network and its arguments."""
    described = configuration.get("architecture")
    if not isinstance(described, Mapping):
        described = _old_architecture(configuration)
    name, arguments = described.get("network_class_name"), described.get("arch_kwargs")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise SpecError("plans: architecture has no network_class_name or no arch_kwargs, are they nnU-Net's?")
    return name, arguments


def _old_architecture(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what plans from before nnU-Net 2.5 say of the network, as today's do."""
    blocks = values.get("n_conv_per_stage_encoder")
    base, most = values.get("UNet_base_num_features"), values.get("unet_max_num_features")
    if not isinstance(blocks, list) or type(base) is not int or type(most) is not int:
        raise SpecError("plans: have no architecture, are they nnU-Net's?")
    name, dims = values.get("UNet_class_name"), len(values.get("patch_size") or ())
    per_stage = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": name,
        "arch_kwargs": {
            "n_stages": len(blocks),
            "features_per_stage": [min(base * 2**level, most) for level in range(len(blocks))],
            "conv_op": f"Conv{dims}d",
            "kernel_sizes": values.get("conv_kernel_sizes"),
            "strides": values.get("pool_op_kernel_sizes"),
            per_stage: blocks,
            "n_conv_per_stage_decoder": values.get("n_conv_per_stage_decoder"),
            "conv_bias": True,
            "norm_op": f"InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "LeakyReLU",
        },
    }


def _norm(given: UNetArguments, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if given.norm_op is None:
        return {"norm": "none"}
    name = _last(given.norm_op)
    norm = _NORMS.get(name[:-2])
    if norm is None:
        raise _no_model(f"norm_op {given.norm_op!r}", f"is none of {', '.join(_NORMS)}")
    if any(key.endswith(".norm.running_mean") for key in shapes):
        norm = "batch"
    values = given.norm_op_kwargs or {}
    _refuse_others("norm_op_kwargs", values, {"eps", "affine"})
    epsilon = values.get("eps", 1e-5)
    affine = values.get("affine", _AFFINE_BY_DEFAULT[norm])
    return {"norm": norm, "norm_epsilon": float(epsilon) if type(epsilon) is int else epsilon, "norm_affine": affine}


def _activation(given: UNetArguments) -> dict[str, Any]:
    name = "nothing" if given.nonlin is None else _last(given.nonlin)
    activation = _ACTIVATIONS.get(name)
    if activation is None:
        raise _no_model(f"nonlin {given.nonlin!r}", f"is none of {', '.join(_ACTIVATIONS)}")
    values = given.nonlin_kwargs or {}
    _refuse_others("nonlin_kwargs", values, {"inplace", *(("negative_slope",) if name == "LeakyReLU" else ())})
    slope = values.get("negative_slope", 0.01)
    return {"activation": activation, "negative_slope": float(slope) if type(slope) is int else slope}


def _dropout(given: UNetArguments) -> Any:
    if given.dropout_op is None:
        return 0.0
    if _last(given.dropout_op) not in ("Dropout2d", "Dropout3d"):
        raise _no_model(f"dropout_op {given.dropout_op!r}", "is neither Dropout2d nor Dropout3d")
    values = given.dropout_op_kwargs or {}
    _refuse_others("dropout_op_kwargs", values, {"p", "inplace"})
    probability = values.get("p", 0.5)
    return float(probability) if type(probability) is int else probability


def _refuse_others(field: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise _no_model(f"{field}.{unknown[0]} {values[unknown[0]]!r}", f"is not among {', '.join(sorted(known))}")


def _no_model(what: str, problem: str) -> SpecError:
    said = f"plans: {what[:200]} {problem}"
    return SpecError(f"{said}, which no model here has: give the spec of the network by --model.")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _numbers(value: int | tuple[int, ...], length: int) -> list[int]:
    return [value] * length if isinstance(value, int) else list(value)


def _edges(value: int | tuple[int | tuple[int, ...], ...], levels: int, dims: int) -> list[list[int]]:
    items = (value,) * levels if isinstance(value, int) else value
    return [[item] * dims if isinstance(item, int) else list(item) for item in items]


def _size(shapes: Mapping[str, tuple[int, ...]], key: str, *, axis: int) -> int:
    if len(shapes.get(key, ())) <= axis:
        raise SpecError(f"the checkpoint has no kernel {key!r}, which the network of its plans has: is it whole?")
    return shapes[key][axis]
