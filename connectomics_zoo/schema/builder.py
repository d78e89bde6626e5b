"""What a builder is: a module with `Config`, `interface(config)` and `build(config, …)`, found in a closed index.

A builder lives in a catalogue's `builders/<name>.py`. Importing it must not import torch; `build` may.

It may also have
- `CHANNELS_LAST = True`, which says that its networks are faster on a CPU with channels last,
- `faster_in_bfloat16(config)`, which says whether they train faster so on a CPU that has it,
- `encoder_modules(config)`, which names the submodules of the encoder: what lies before the first upsampling,
- `CHANNEL_VECTORS`, names of parameters that hold one number a channel in the shape (1, C, 1, …), and are no kernels,
- `PYTC`, the architectures of PyTorch Connectomics that it builds,
- `INERT`, patterns of tensors that no output depends on,
- `other_key(key)`, which says what another implementation calls the tensor `key`,
- `untold(config)`, which names the fields of `arch` that change what is computed and no tensor's name or shape.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from connectomics_zoo import catalog
from connectomics_zoo.errors import LimitError, SpecError
from connectomics_zoo.schema.base import Node
from connectomics_zoo.schema.pytc import PytcArchitecture

if TYPE_CHECKING:
    from torch import nn

MAX_PARAMETERS = 10**9
"""The largest network that a spec may ask for: 4 GB of weights in float32."""


def refuse_too_many(parameters: int) -> None:
    """Refuse a configuration that asks for about `parameters` parameters, before anything is built.

    Raises:
        LimitError: that is more than `MAX_PARAMETERS`.
    """
    if parameters > MAX_PARAMETERS:
        raise LimitError(f"asks for about {parameters:.1e} parameters, at most {MAX_PARAMETERS:.0e} are allowed")


class BuilderConfig(Node):
    """Base of every builder's `Config`: the fields under `arch` in a model spec."""

    def override(self, changes: Mapping[str, object]) -> dict[str, object]:
        """Return this configuration's fields with `changes`, to be validated anew."""
        return {**self.model_dump(mode="json"), **changes}


class OutputGeometry(NamedTuple):
    """One output as the architecture determines it."""

    name: str
    stride: tuple[int, ...]
    loss_weight: float


class Interface(NamedTuple):
    """What an architecture takes and returns; a spec declares the same, and `zoo verify` compares both."""

    axes: str
    minimum: tuple[int, ...]
    step: tuple[int, ...]
    outputs: tuple[OutputGeometry, ...]


class Builder(Protocol):
    """The three names that a builder module has."""

    Config: type[BuilderConfig]

    def interface(self, config: Any) -> Interface:
        """Return the legal sizes and the outputs that follow from `config`, without torch."""
        ...

    def build(self, config: Any, *, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        """Return the freshly initialised network.

        In training with `deep_supervision` it returns a dict in the order of the interface's outputs;
        otherwise one tensor of logits at full resolution.
        """
        ...


def builder_module(name: str) -> Builder:
    """Return the builder called `name` from the installed catalogues.

    Raises:
        UnknownNameError: no catalogue has it.
        SpecError: the module lacks one of a builder's three names.
    """
    module = importlib.import_module(catalog.builder_import_path(name))
    for required in ("Config", "interface", "build"):
        if not hasattr(module, required):
            raise SpecError(f"the builder {name!r} ({module.__name__}) has no {required!r}, a builder needs it.")
    if not inspect.isfunction(vars(module)["build"]):
        raise SpecError(f"the builder {name!r}: 'build' is not a function, make it one.")
    return cast("Builder", module)


def prefers_channels_last(name: str) -> bool:
    """Return whether the builder `name` declares `CHANNELS_LAST = True`: its networks then run so on a CPU."""
    return vars(builder_module(name)).get("CHANNELS_LAST", False) is True


def prefers_bfloat16(name: str, config: BuilderConfig) -> bool:
    """Return what the builder's `faster_in_bfloat16(config)`, where it has one, says of training on a CPU."""
    answer = vars(builder_module(name)).get("faster_in_bfloat16")
    return answer is not None and answer(config) is True


def encoder_modules(name: str, config: BuilderConfig) -> tuple[str, ...] | None:
    """Return the submodules that the builder's `encoder_modules(config)` names, None where the builder has none."""
    answer = vars(builder_module(name)).get("encoder_modules")
    return None if answer is None else tuple(answer(config))


def channel_vectors(name: str) -> tuple[str, ...]:
    """Return the parameters that the builder declares as `CHANNEL_VECTORS`, by the last part of their names."""
    return tuple(vars(builder_module(name)).get("CHANNEL_VECTORS", ()))


@functools.cache
def pytc_architectures() -> Mapping[str, PytcArchitecture]:
    """Return the architectures of PyTorch Connectomics that the installed builders declare in `PYTC`, by name.

    Raises:
        SpecError: two builders declare the same.
    """
    found: dict[str, PytcArchitecture] = {}
    for builder in catalog.builders():
        for architecture in vars(builder_module(builder)).get("PYTC", ()):
            if found.setdefault(architecture.name, architecture) is not architecture:
                raise SpecError(f"two builders declare PyTorch Connectomics' {architecture.name!r}, uninstall one.")
    return found


def inert_keys(name: str) -> tuple[str, ...]:
    """Return the builder's `INERT`: patterns of tensors that no output depends on, `*` for anything."""
    return tuple(vars(builder_module(name)).get("INERT", ()))


def other_key(name: str) -> Callable[[str], str] | None:
    """Return the builder's `other_key(key)`, which says what another implementation calls a tensor, if it has one."""
    return vars(builder_module(name)).get("other_key")


def untold_fields(name: str, config: BuilderConfig) -> tuple[str, ...]:
    """Return the fields of `arch` that decide what is computed and that no tensor's name or shape tells.

    A builder without `untold(config)` does not say, so that all its fields are taken for such.
    """
    answer = vars(builder_module(name)).get("untold")
    return tuple(type(config).model_fields) if answer is None else tuple(answer(config))
