"""`load`: a network from a reference, with everything that is known about it attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from connectomics_zoo.errors import SpecError, WeightsError, ZooError
from connectomics_zoo.network.build import build, with_counts
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.reference import Reference, parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.ensemble import Ensemble, find_alike
from connectomics_zoo.weights.pretrained import Frozen, Pretrained, find_pretrained, find_start
from connectomics_zoo.weights.storage import largest_file, largest_start, read_weights
from connectomics_zoo.weights.transfer import LoadReport, build_with_weights


def load(
    ref: str | Path | ModelSpec | Sequence[str | Path],
    *,
    pretrained: bool | str = False,
    in_channels: int | None = None,
    out_channels: int | None = None,
    deep_supervision: bool | None = None,
    arch: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    device: str | torch.device = "cpu",
    frozen: Frozen = False,
) -> nn.Module:
    """Return the network of `ref` in evaluation mode, with `.spec` and `.load_report`.

    The weights file may stay mapped into memory while the network lives (see `read_weights`): changing the network,
    by training it for example, never changes the file, and the file may be deleted or replaced by another of its name,
    but must not be overwritten in place.

    Args:
        ref: a reference: `name`, `name@1.0.0`, `name.tag` (with those weights), `catalog:name`,
            `hf://org/repo@revision` (with its weights), a YAML file, a run folder (with its weights), or a spec; or a
            list of those with weights that say how they were trained, an `Ensemble`.
        pretrained: True for the model's first weights, or the tag of others. They come from the package, the Hub's
            cache, or the Hub, and are the file that the spec declares or an error.
        in_channels: channels of the input, where they differ from the spec's, or from those of the weights.
        out_channels: channels of the outputs, where they differ from the spec's, or from those of the weights.
        deep_supervision: have the heads at all scales; by default, if the spec has them.
        arch: fields of the architecture to change, by name.
        init_from: weights to start from: a safetensors file, a run folder, `name.tag` or `hf://org/repo@revision`;
            kernels may be smaller (UpKern) and channels may differ.
        device: where the network goes.
        frozen: load only weights that the lock file `zoo.lock` has, or that of this path, and exactly those.

    Raises:
        UnknownNameError: there is no such model, tag, or field.
        SpecError: a value is not allowed.
        WeightsError: the weights are missing, are not the declared or locked ones, or do not fit.
        HubError: the Hub does not give them.
        ZooError: the device cannot be used.
    """
    _require_bool("deep_supervision", deep_supervision)
    _check_device(device)
    if not isinstance(ref, str | Path | ModelSpec | Reference):
        changes = (pretrained, in_channels, out_channels, deep_supervision, arch, init_from)
        if any(change not in (None, False) for change in changes):
            raise SpecError("an ensemble has its members' networks as they are: leave out all but device and frozen.")
        return _load_ensemble(ref, device=device, frozen=frozen)
    reference = ref if isinstance(ref, ModelSpec) else parse_reference(ref)
    trained = _trained(reference, pretrained, frozen=frozen)
    if frozen is not False and trained is None and init_from is None:
        raise WeightsError(
            f"{ref!s}: frozen says which weights may be loaded, and none are asked for: add pretrained=True, or leave "
            "out frozen."
        )
    declared = get_spec(reference) if trained is None else trained.spec
    spec = resolve_model(declared, in_channels=in_channels, out_channels=out_channels, arch=arch)
    if trained is not None and init_from is not None:
        raise WeightsError(f"{ref!s} brings its own weights, leave out either them or init_from={str(init_from)!r}.")
    if deep_supervision is None:
        deep_supervision = len(spec.outputs) > 1
    elif deep_supervision and len(spec.outputs) == 1:
        raise SpecError(f"{spec.name} has one output only, load it without deep_supervision=True.")

    if init_from is not None:
        start = find_start(init_from, spec, frozen=frozen)
        return load_file(spec, start.path, deep_supervision=deep_supervision, resample_kernels=True, device=device)
    if trained is not None:
        return load_file(
            spec,
            trained.path,
            deep_supervision=deep_supervision,
            same_shapes=in_channels is None and out_channels is None,
            name=trained.source,
            device=device,
        )
    spec = with_counts(spec)
    network = build(spec, deep_supervision=deep_supervision)
    report = LoadReport("initialisation", reinitialised=tuple(network.state_dict()))
    return _finish(network, spec, report, device=device)


def _load_ensemble(references: Sequence[str | Path], *, device: str | torch.device, frozen: Frozen) -> Ensemble:
    found = find_alike(references, frozen=frozen)
    members = [
        load_file(run.model, its.path, deep_supervision=False, same_shapes=True, name=its.source, device=device)
        for run, its in found
    ]
    return Ensemble(members, task=found[0][0].task).eval()


def load_file(
    spec: ModelSpec,
    path: Path,
    *,
    deep_supervision: bool = True,
    resample_kernels: bool = False,
    same_shapes: bool = False,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Return the network of a resolved spec with the weights in the file `path`, as `load` does.

    Args:
        spec: a resolved spec.
        path: a safetensors file.
        deep_supervision: have the heads at all scales.
        resample_kernels: make larger kernels from smaller ones (UpKern).
        same_shapes: refuse weights of other channels.
        name: names the weights in the report and in errors; by default the path.
        device: where the network goes.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    spec = with_counts(spec)  # by which the largest file is known, too
    network, report = build_with_weights(
        spec,
        read_weights(path, max_bytes=largest_start(spec) if resample_kernels else largest_file(spec)),
        deep_supervision=deep_supervision,
        source=name or str(path),
        resample_kernels=resample_kernels,
        same_shapes=same_shapes,
    )
    return _finish(network, spec, report, device=device)


def _finish(network: nn.Module, spec: ModelSpec, report: LoadReport, *, device: str | torch.device) -> nn.Module:
    """Attach spec and report, and put the network where it belongs, in evaluation mode."""
    attached: Any = network
    attached.spec = spec
    attached.load_report = report
    return _moved(network, torch.device(device)).eval()


def _moved(network: nn.Module, device: torch.device) -> nn.Module:
    """`network.to(device)`, which takes its time even where all is there already."""
    there = all(tensor.device == device for tensor in (*network.parameters(), *network.buffers()))
    return network if there else network.to(device)


def _require_bool(name: str, value: object) -> None:
    """Refuse what only counts as true or false, such as the text 'false', which would be true."""
    if value is not None and not isinstance(value, bool):
        raise SpecError(f"{name} is {value!r}, it must be True, False or None.")


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise ZooError(
            f"device {str(device)!r} cannot be used here ({reason}), give one that is there, such as 'cpu'."
        ) from None
    if torch.empty(0).device.type == "meta" and torch.device(device).type != "meta":
        raise ZooError(
            "torch's default device is 'meta' here, where tensors have no values: load the network outside of "
            "torch.device('meta'), or with device='meta' for its shapes alone."
        )


def _trained(reference: Reference | ModelSpec, pretrained: bool | str, *, frozen: Frozen) -> Pretrained | None:
    """Return the weights that the reference itself asks for, or None."""
    if isinstance(reference, ModelSpec):
        if pretrained:
            raise WeightsError(
                f"{reference.name}: weights lie beside a spec's file, load it by name or path for "
                f"pretrained={pretrained!r}."
            )
        return None
    tag = pretrained if isinstance(pretrained, str) else None
    brings = reference.hub is not None or (reference.path is not None and reference.path.is_dir())
    own = "its own weights" if brings else reference.tag
    if tag is not None and own not in (None, tag):
        raise WeightsError(f"{reference.text} means {own}, leave out pretrained={tag!r}.")
    return find_pretrained(reference, tag, frozen=frozen) if own or pretrained else None
