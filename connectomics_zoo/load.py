"""`load`: a network from a reference, with everything that is known about it attached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from connectomics_zoo.build import build, measure_static
from connectomics_zoo.errors import SpecError, WeightsError, ZooError
from connectomics_zoo.registry import Reference, check_tag, get_spec, parse_reference, resolve_model, spec_path
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.weights import (
    PICKLES,
    WEIGHTS_FILE,
    LoadReport,
    build_with_weights,
    file_sha256,
    read_weights,
)


def load(
    ref: str | Path | ModelSpec,
    *,
    pretrained: bool | str = False,
    in_channels: int | None = None,
    out_channels: int | None = None,
    deep_supervision: bool | None = None,
    arch: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Return the network of `ref` in evaluation mode, with `.spec` and `.load_report`.

    The weights file may stay mapped into memory while the network lives (see `read_weights`): changing the network,
    by training it for example, never changes the file, and the file may be deleted or replaced by another of its name,
    but must not be overwritten in place.

    Args:
        ref: a reference: `name`, `name@1.0.0`, `name.tag` (with those weights), `catalog:name`, a YAML file, a
            run folder (with its weights), or a spec.
        pretrained: True for the model's first weights, or the tag of others.
        in_channels: channels of the input, where they differ from the spec's.
        out_channels: channels of the outputs, where they differ from the spec's.
        deep_supervision: have the heads at all scales; by default, if the spec has them.
        arch: fields of the architecture to change, by name.
        init_from: weights to start from: a safetensors file, a run folder or `name.tag`; kernels may be smaller
            (UpKern) and channels may differ.
        device: where the network goes.

    Raises:
        UnknownNameError: there is no such model, tag, or field.
        SpecError: a value is not allowed.
        WeightsError: the weights are missing or do not fit.
        ZooError: the device cannot be used.
    """
    reference = None if isinstance(ref, ModelSpec) else parse_reference(ref)
    declared = get_spec(ref)
    spec = resolve_model(declared, in_channels=in_channels, out_channels=out_channels, arch=arch)
    source = _own_weights(reference, declared, pretrained)
    if source is not None and init_from is not None:
        raise WeightsError(f"{ref!s} brings its own weights, leave out either them or init_from={str(init_from)!r}.")
    if deep_supervision is None:
        deep_supervision = len(spec.outputs) > 1
    elif deep_supervision and len(spec.outputs) == 1:
        raise SpecError(f"{spec.name} has one output only, load it without deep_supervision=True.")

    _check_device(device)
    path = find_weights(init_from) if init_from is not None else source
    network, report = _make(spec, path, deep_supervision=deep_supervision, resample_kernels=init_from is not None)
    if spec.expect is None:
        spec = spec.model_copy(update={"expect": measure_static(spec)})
    attached: Any = network
    attached.spec = spec
    attached.load_report = report
    return _moved(network, torch.device(device)).eval()


def _make(
    spec: ModelSpec, path: Path | None, *, deep_supervision: bool, resample_kernels: bool
) -> tuple[nn.Module, LoadReport]:
    """Return the network with the weights at `path`, or a fresh one for None."""
    if path is None:
        network = build(spec, deep_supervision=deep_supervision)
        return network, LoadReport("initialisation", reinitialised=tuple(network.state_dict()))
    return build_with_weights(
        spec,
        read_weights(path),
        deep_supervision=deep_supervision,
        source=str(path),
        resample_kernels=resample_kernels,
    )


def _moved(network: nn.Module, device: torch.device) -> nn.Module:
    """`network.to(device)`, which takes its time even where all is there already."""
    there = all(tensor.device == device for tensor in (*network.parameters(), *network.buffers()))
    return network if there else network.to(device)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise ZooError(
            f"device {str(device)!r} cannot be used here ({reason}), give one that is there, such as 'cpu'."
        ) from None


def _own_weights(reference: Reference | None, spec: ModelSpec, pretrained: bool | str) -> Path | None:
    """Return the weights file that the reference itself asks for, or None."""
    if reference is not None and isinstance(pretrained, str):
        own = "its own weights" if reference.path is not None and reference.path.is_dir() else reference.tag
        if own not in (None, pretrained):
            raise WeightsError(f"{reference.text} means {own}, leave out pretrained={pretrained!r}.")
    if reference is not None and reference.path is not None and reference.path.is_dir():
        return find_weights(reference.path)
    tag = reference.tag if reference is not None and reference.tag else pretrained
    if not tag:
        return None
    if reference is None:
        raise WeightsError(
            f"{spec.name}: weights lie beside a spec's file, load it by name or path for pretrained={tag!r}."
        )
    return weights_path(spec, tag if isinstance(tag, str) else None, folder=spec_path(reference).parent)


def weights_path(spec: ModelSpec, tag: str | None, *, folder: Path) -> Path:
    """Return the checked file of the weights `tag` (None: the first) of the spec that lies in `folder`.

    Raises:
        WeightsError: there is no such tag, or the file is not the one that the spec declares.
    """
    check_tag(spec, tag)
    chosen = next(iter(spec.weights)) if tag is None else tag
    path = folder / spec.weights[chosen].file
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file, put it beside the spec.")
    if path.is_symlink():
        raise WeightsError(f"{path}: is a link, weights are read from the spec's own folder only: copy the file there.")
    if file_sha256(path) != spec.weights[chosen].sha256:
        raise WeightsError(f"{path}: not the file that {spec.name}.{chosen} declares (sha256 differs), get it again.")
    return path


def find_weights(source: str | Path) -> Path:
    """Return the weights file that `source` means: the file itself, that of a run folder, or of `name.tag`."""
    path = Path(source)
    if path.is_dir():
        return path / WEIGHTS_FILE
    if path.suffix in (".safetensors", *PICKLES) or path.is_file():
        return path
    reference = parse_reference(source)
    return weights_path(get_spec(source), reference.tag, folder=spec_path(reference).parent)
