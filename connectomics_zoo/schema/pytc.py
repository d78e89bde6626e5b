"""What a builder declares about PyTorch Connectomics (PyTC): which of its architectures it builds, and from which keys.

PyTC's configurations are of two generations, which spell the keys of their `model` section differently. `flat`:
https://github.com/zudi-lin/pytorch_connectomics, commit 066f1c2 (November 2025), `connectomics/config/hydra_config.py`
and `connectomics/models/arch/`, with what https://github.com/PytorchConnectomics/pytorch_connectomics added there until
commit e56a215 (February 2026). `nested`: the latter, commit 4335a8b (August 2026),
`connectomics/config/schema/model*.py` and `connectomics/models/architectures/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from connectomics_zoo.errors import SpecError

Generation = Literal["flat", "nested"]

INPUT_SIZE = (128, 128, 128)
"""PyTC's default of `input_size`."""


@dataclass(frozen=True)
class PytcRequest:
    """What a configuration asks for, in terms that hardly depend on its generation."""

    architecture: str
    generation: Generation
    in_channels: int
    out_channels: int
    deep_supervision: bool
    input_size: tuple[int, ...] | None
    """The patch size; None where it is absent."""
    settings: Mapping[str, Any]
    """Every setting of the architecture, its default where the key is absent."""
    defaults: Mapping[str, Any]
    """The default of each setting."""
    keys: Mapping[str, str]
    """The key of each setting, for messages."""

    def refuse(self, setting: str, problem: str) -> SpecError:
        """Return the error for a value that cannot be built: `problem` says what is allowed and what to do."""
        return SpecError(f"model.{self.keys[setting]} is {self.settings[setting]!r}, {problem}.")

    def whole_numbers(self, setting: str) -> tuple[int, ...]:
        """Return a setting that must be a list of whole numbers of at least 1.

        Raises:
            SpecError: it is none.
        """
        return whole_numbers(self.keys[setting], self.settings[setting])


def whole_numbers(key: str, value: Any) -> tuple[int, ...]:
    """Return the value of `key` as whole numbers of at least 1.

    Raises:
        SpecError: it is no list of them.
    """
    if not isinstance(value, list) or not value or any(type(item) is not int or item < 1 for item in value):
        raise SpecError(f"model.{key} is {value!r}, it must be a list of whole numbers of at least 1.")
    return tuple(value)


class PytcKeys(NamedTuple):
    """Settings of one generation; those that no architecture follows are known, and refused where they are changed."""

    keys: Mapping[str, str]
    """The key of each setting."""
    defaults: Mapping[str, Any]
    """The default of each setting."""


def prefixed(prefix: str, defaults: Mapping[str, Any], *, renamed: Mapping[str, str] | None = None) -> PytcKeys:
    """Return settings whose keys are their names after `prefix`, but for those in `renamed`."""
    return PytcKeys({name: (renamed or {}).get(name, f"{prefix}{name}") for name in defaults}, defaults)


@dataclass(frozen=True)
class PytcArchitecture:
    """An architecture of PyTC, and how its settings become a model here."""

    name: str
    """PyTC's name of it."""
    models: tuple[str, ...]
    """The models that it can become."""
    sections: Mapping[Generation, PytcKeys]
    """The settings of its part of the configuration, which other architectures may share."""
    settings: tuple[str, ...]
    """Those among them that its network follows here: what PyTC's builder reads, and what that ignores although the
    network has it."""
    translate: Callable[[PytcRequest], tuple[str, dict[str, Any]]]
    """Gives the reference of the model, and the fields of its `arch` that differ; raises SpecError on other values."""
    supervised: bool = False
    """Whether it has deep supervision; PyTC ignores the key for the others."""
    needs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Settings that have an effect only where another setting has this value."""
    own_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What is taken where a key is absent although the default is another, with which it cannot be built."""
    fallbacks: Mapping[str, Any] = field(default_factory=dict)
    """What PyTC's builder alone takes where a key is absent, which its configuration files do not."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What `arch.profile` fills in, by its name (`connectomics/config/profiles/arch_profiles.yaml`)."""
