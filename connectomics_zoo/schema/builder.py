"""What a builder is: a module with `Config`, `interface(config)` and `build(config, …)`, found in a closed index.

A builder lives in a catalogue's `builders/<name>.py`. Importing it must not import torch; `build` may.

It may also have
- `CHANNELS_LAST = True`, which says that its networks are faster on a CPU with channels last,
- `faster_in_bfloat16(config)`, which says whether they train faster so on a CPU that has it,
- `encoder_modules(config)`, which names the submodules of the encoder: what lies before the first upsampling,
- `CHANNEL_VECTORS`, names of parameters that hold one number a channel in the shape (1, C, 1, …), and are no kernels,
- `PYTC`, the architectures of PyTorch Connectomics that it builds,
- `PLANS`, the kind of network of nnU-Net that it builds,
- `INERT`, patterns of tensors that no output depends on,
- `image_pooling(config)`, over blocks of how many voxels (z, y, x) its networks average the image, where originals take
  that mean,
- `other_key(key)`, which says what another implementation calls the tensor `key`,
- `untold(config)`, which names the fields of `arch` that change what is computed and no tensor's name or shape,
- `monai_definition(config, in_channels, out_channels)`, the class in `monai.networks.nets` and its arguments, as plain
  data, that have the network's tensors and arithmetic without deep supervision; or None.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from connectomics_zoo import catalog
from connectomics_zoo.errors import LimitError, SpecError, ZooError, reason
from connectomics_zoo.schema.base import Node
from connectomics_zoo.schema.plans import PlansArchitecture
from connectomics_zoo.schema.pytc import PytcArchitecture

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

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
    context: tuple[int, ...] | None = None


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
        SpecError: several have it, the module cannot be imported, or it lacks one of a builder's three names.
    """
    catalog.find_builder(name)
    with _blaming(name, "cannot be imported"):
        module = catalog.import_builder(name)
    for required in ("Config", "interface", "build"):
        if not hasattr(module, required):
            raise SpecError(f"the builder {name!r} ({module.__name__}) has no {required!r}, a builder needs it.")
    if not inspect.isfunction(vars(module)["build"]):
        raise SpecError(f"the builder {name!r}: 'build' is not a function, make it one.")
    if not inspect.isclass(module.Config) or not issubclass(module.Config, BuilderConfig):
        raise SpecError(f"the builder {name!r} ({module.__name__}): 'Config' is no BuilderConfig, make it one.")
    return cast("Builder", module)


@contextmanager
def _blaming(name: str, what: str) -> Iterator[None]:
    """Turn whatever a builder's code raises, to stop the program included, into a sentence that names its package."""
    try:
        yield
    except (ZooError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        owner = catalog.find_builder(name).catalog.owner
        said = f"{type(error).__name__}: {reason(error)}".removesuffix(f": {type(error).__name__}")
        raise SpecError(f"the builder {name!r} of {owner} {what} ({said}), mend, update or remove it.") from error


def usable_builders() -> tuple[str, ...]:
    """Return the names of the builders, without those whose package is broken, each of which is a warning."""
    return tuple(name for name in catalog.builders() if is_usable(name))


@functools.cache
def is_usable(name: str) -> bool:
    """Return whether a builder can be imported and says what it must; one that does not is a warning."""
    try:
        _check_declarations(name)
    except SpecError as error:
        _log.warning("left out: %s", error)
        return False
    return True


def _check_declarations(name: str) -> None:
    """Refuse a builder whose fields, or whose architectures of PyTorch Connectomics, cannot be read."""
    module, import_path = builder_module(name), catalog.builder_import_path(name)
    with _blaming(name, "has a 'Config' without a schema"):
        module.Config.model_json_schema()
    declared = vars(module).get("PYTC", ())
    if not isinstance(declared, list | tuple) or not all(isinstance(item, PytcArchitecture) for item in declared):
        raise SpecError(f"the builder {import_path!r}: 'PYTC' is no list of PytcArchitecture, make it one.")
    plans_architecture(name)


def interface_of(name: str, config: BuilderConfig) -> Interface:
    """Return the interface that follows from `config`.

    Raises:
        SpecError: the builder raises.
    """
    with _blaming(name, "fails in 'interface'"):
        return builder_module(name).interface(config)


def build_with(
    name: str, config: BuilderConfig, *, in_channels: int, out_channels: int, deep_supervision: bool
) -> nn.Module:
    """Return the network that the builder makes of `config`.

    Raises:
        SpecError: the builder of a third party raises.
    """
    module = builder_module(name)
    is_builtin = catalog.find_builder(name).catalog.is_builtin
    with nullcontext() if is_builtin else _blaming(name, "fails in 'build'"):
        return module.build(
            config, in_channels=in_channels, out_channels=out_channels, deep_supervision=deep_supervision
        )


def prefers_channels_last(name: str) -> bool:
    """Return whether the builder `name` declares `CHANNELS_LAST = True`: its networks then run so on a CPU."""
    return vars(builder_module(name)).get("CHANNELS_LAST", False) is True


def prefers_bfloat16(name: str, config: BuilderConfig) -> bool:
    """Return what the builder's `faster_in_bfloat16(config)`, where it has one, says of training on a CPU."""
    answer = vars(builder_module(name)).get("faster_in_bfloat16")
    return answer is not None and answer(config) is True


def kept_on_cpu(name: str, config: BuilderConfig) -> BuilderConfig | None:
    """Return the configuration whose plain network keeps for the backward pass what that of `config` keeps on a CPU.

    None where the two are one: where the builder has no `kept_on_cpu(config)`, or that returns None.
    """
    answer = vars(builder_module(name)).get("kept_on_cpu")
    return None if answer is None else cast("BuilderConfig | None", answer(config))


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

    Of two that are called the same the first one counts, and those of the built-in catalogue come first.
    """
    found: dict[str, PytcArchitecture] = {}
    for builder in usable_builders():
        module = builder_module(builder)
        for architecture in vars(module).get("PYTC", ()):
            if found.setdefault(architecture.name, architecture) is not architecture:
                _log.warning(
                    "two builders declare PyTorch Connectomics' %r, that of %s is left out: uninstall one.",
                    architecture.name,
                    vars(module)["__name__"],
                )
    return found


def plans_architecture(name: str) -> PlansArchitecture | None:
    """Return the kind of network of nnU-Net that the builder declares as `PLANS`, None where it has none.

    Raises:
        SpecError: what it declares is something else.
    """
    declared = vars(builder_module(name)).get("PLANS")
    if declared is not None and not isinstance(declared, PlansArchitecture):
        raise SpecError(f"the builder {catalog.builder_import_path(name)!r}: 'PLANS' is no PlansArchitecture.")
    return declared


def inert_keys(name: str) -> tuple[str, ...]:
    """Return the builder's `INERT`: patterns of tensors that no output depends on, `*` for anything."""
    return tuple(vars(builder_module(name)).get("INERT", ()))


def image_pooling(name: str, config: BuilderConfig) -> tuple[int, ...]:
    """Return over blocks of how many voxels (z, y, x) networks average the image first, where the originals do not."""
    answer = vars(builder_module(name)).get("image_pooling")
    return (1, 1, 1) if answer is None else tuple(answer(config))


def other_key(name: str) -> Callable[[str], str] | None:
    """Return the builder's `other_key(key)`, which says what another implementation calls a tensor, if it has one."""
    return vars(builder_module(name)).get("other_key")


def untold_fields(name: str, config: BuilderConfig) -> tuple[str, ...]:
    """Return the fields of `arch` that decide what is computed and that no tensor's name or shape tells.

    A builder without `untold(config)` does not say, so that all its fields are taken for such.
    """
    answer = vars(builder_module(name)).get("untold")
    return tuple(type(config).model_fields) if answer is None else tuple(answer(config))


def monai_definition(
    name: str, config: BuilderConfig, *, in_channels: int, out_channels: int
) -> tuple[str, dict[str, Any]] | None:
    """Return the class of MONAI and its arguments that the builder's `monai_definition` gives, or None."""
    answer = vars(builder_module(name)).get("monai_definition")
    return None if answer is None else answer(config, in_channels=in_channels, out_channels=out_channels)
