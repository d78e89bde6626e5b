"""`build_model`: a network from a PyTorch Connectomics configuration; and the list of what can be built."""

from __future__ import annotations

import logging

from torch import nn

from connectomics_zoo.compat.request import read_request
from connectomics_zoo.compat.section import model_section
from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.builder import pytc_architectures
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.weights.load import load

_log = logging.getLogger(__name__)


def build_model(config: object) -> nn.Module:
    """Return the network that a PyTorch Connectomics (PyTC) configuration describes, with PyTC's parameter count.

    It is the catalogue's network, in training mode and on the CPU, with `.spec` and `.load_report` as from `load`,
    and without PyTC's wrapper: its state-dict keys have no `model.` in front. In training with deep supervision it
    returns a dict, in evaluation one tensor. A key that the network does not follow must be at PyTC's default; those
    about losses, `output_size` and other things that are not the network are accepted and not read.

    Args:
        config: a mapping, an OmegaConf node, a dataclass or a namespace with `model`, of either generation
            (`model.architecture` or `model.arch.type`).

    Raises:
        UnknownNameError: the architecture, or a key, does not exist.
        SpecError: a value is not allowed, or has no effect on this architecture.
    """
    request = read_request(model_section(config))
    reference, arch = pytc_architectures()[request.architecture].translate(request)
    try:
        spec = resolve_model(reference, in_channels=request.in_channels, out_channels=request.out_channels, arch=arch)
    except SpecError as error:
        raise SpecError(f"model ({request.architecture}): {error}") from None
    spec = _with_patch(spec, request.input_size)
    network = load(spec, deep_supervision=request.deep_supervision)
    return network.train()


def _with_patch(spec: ModelSpec, size: tuple[int, ...] | None) -> ModelSpec:
    """Return `spec` with PyTC's patch as that of its recipe, where it is a legal size."""
    if size is None:
        return spec
    if spec.input.size.allows(size):
        return spec.model_copy(update={"training": spec.training.model_copy(update={"patch_size": size})})
    if len(size) == len(spec.input.axes):
        _log.warning(
            "model.input_size %s is not a legal size of %s, legal are %s: train with patches of %s.",
            list(size),
            spec.name,
            spec.input.size.describe(),
            list(spec.input.size.round_up(size)),
        )
    return spec


def list_architectures() -> list[str]:
    """Return PyTC's names of the architectures that `build_model` builds, sorted."""
    return sorted(pytc_architectures())


def print_available_architectures() -> None:
    """Print the architectures that `build_model` builds, by family, each with the model that it is here."""
    by_family: dict[str, list[str]] = {}
    known = pytc_architectures()
    for architecture in list_architectures():
        by_family.setdefault(get_spec(known[architecture].models[0]).family, []).append(architecture)
    print("Available architectures")
    for family, names in by_family.items():
        print(f"\n{family} ({len(names)}):")
        for name in names:
            print(f"  - {name:<20} {', '.join(known[name].models)}")
    print(f"\nTotal: {len(known)} architectures")
