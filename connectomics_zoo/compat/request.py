"""Reads the `model` section of a PyTorch Connectomics (PyTC) configuration, and leaves no key of it out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from connectomics_zoo.compat.layouts import FLAT, NEEDS, NESTED, PROFILES, SETTINGS, SUPERVISED, UNSUPPORTED, Layout
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest

_log = logging.getLogger(__name__)

MISSING = "???"
"""How OmegaConf marks a value that must be given."""


@dataclass(frozen=True)
class Request:
    """What a configuration asks for, in terms that no longer depend on its generation."""

    architecture: str
    in_channels: int
    out_channels: int
    deep_supervision: bool
    input_size: tuple[int, ...] | None
    """The patch size; None where it is absent."""
    settings: Mapping[str, Any]
    """Every setting of the architecture, its default where the key is absent."""
    keys: Mapping[str, str]
    """The key of each setting, for messages."""
    layout: Layout

    def refuse(self, setting: str, problem: str) -> SpecError:
        """Return the error for a value that cannot be built: `problem` says what is allowed and what to do."""
        return SpecError(f"model.{self.keys[setting]} is {self.settings[setting]!r}, {problem}.")


def read_request(model: Mapping[str, Any]) -> Request:
    """Return what the section `model` asks for.

    Raises:
        UnknownNameError: the architecture, or a key, does not exist.
        SpecError: a key differs from its default although the network does not follow it.
    """
    layout = _layout(model)
    explicit = dict(_flatten(model, layout))
    unknown = [f"unknown key model.{key}, {nearest(key, layout.defaults)}" for key in explicit.keys() - layout.defaults]
    if unknown:
        raise UnknownNameError("; ".join(sorted(unknown)[:5]))
    for key, value in explicit.items():
        if value == MISSING:
            raise SpecError(f"model.{key} is {MISSING!r}, give it a value.")
    given = _apply_profile(explicit) if layout is NESTED else explicit
    architecture = _architecture(given, layout)
    _refuse_without_effect(architecture, explicit, layout)
    values = {**layout.defaults, **layout.own_defaults.get(architecture, {}), **given}
    keys = layout.settings(architecture)
    request = Request(
        architecture=architecture,
        in_channels=_whole_number("in_channels", values["in_channels"]),
        out_channels=_whole_number("out_channels", values["out_channels"]),
        deep_supervision=_truth(layout.deep_supervision, values[layout.deep_supervision]),
        input_size=whole_numbers("model.input_size", explicit["input_size"]) if "input_size" in explicit else None,
        settings={name: values[key] for name, key in keys.items()},
        keys=keys,
        layout=layout,
    )
    for setting, (other, wanted) in NEEDS.items():
        own = keys.get(setting, layout.architecture)
        is_set = setting in keys and explicit.get(own, layout.defaults[own]) != layout.defaults[own]
        if is_set and request.settings[other] not in wanted:
            raise request.refuse(setting, f"which has no effect with {other} {request.settings[other]!r}: remove it")
    _note_other_defaults(request, given)
    return request


def _layout(model: Mapping[str, Any]) -> Layout:
    if "arch" in model and "architecture" in model:
        raise SpecError("model has both 'architecture' and 'arch', which are of different generations: keep one.")
    if "arch" in model:
        return NESTED
    if "architecture" in model:
        return FLAT
    raise SpecError(f"model has no 'architecture', give one of {', '.join(SETTINGS)}.")


def _flatten(section: Mapping[str, Any], layout: Layout, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in layout.defaults:
            yield from _flatten(value, layout, f"{key}.")
        else:
            yield key, value


def _apply_profile(given: dict[str, Any]) -> dict[str, Any]:
    profile = given.get("arch.profile")
    if profile is None:
        return given
    if not isinstance(profile, str) or profile not in PROFILES:
        raise UnknownNameError(
            f"unknown model.arch.profile {profile!r} (known are {', '.join(PROFILES)}), "
            "let PyTorch Connectomics resolve one of your own and set it to null."
        )
    merged = {**PROFILES[profile], **given}
    if merged["arch.type"] != PROFILES[profile]["arch.type"]:
        raise SpecError(f"model.arch.profile {profile!r} is not of type {merged['arch.type']!r}, keep one of them.")
    return merged


def _architecture(given: Mapping[str, Any], layout: Layout) -> str:
    if layout.architecture not in given:
        raise SpecError(f"model has no {layout.architecture!r}, give one of {', '.join(SETTINGS)}.")
    architecture = given[layout.architecture]
    if not isinstance(architecture, str):
        raise SpecError(f"model.{layout.architecture} is {architecture!r}, it must be one of {', '.join(SETTINGS)}.")
    if architecture in UNSUPPORTED:
        raise UnknownNameError(
            f"the architecture {architecture!r} is not built here ({UNSUPPORTED[architecture]}), "
            f"there are {', '.join(SETTINGS)}."
        )
    if architecture not in SETTINGS:
        raise UnknownNameError(f"unknown architecture {architecture!r}, {nearest(architecture, SETTINGS)}")
    return architecture


def _refuse_without_effect(architecture: str, given: Mapping[str, Any], layout: Layout) -> None:
    """Refuse every key that differs from its default although the network of `architecture` does not follow it."""
    followed = {*layout.settings(architecture).values(), *layout.not_network}
    followed |= {layout.architecture, "arch.profile", "input_size", "in_channels", "out_channels"}
    if architecture in SUPERVISED:
        followed.add(layout.deep_supervision)
    problems = []
    for key, value in given.items():
        if key in followed or value == layout.defaults[key]:
            continue
        readers = [name for name in SETTINGS if key in layout.settings(name).values()]
        if key == layout.deep_supervision:
            readers = [name for name in SETTINGS if name in SUPERVISED]
        known_by = f"{', '.join(readers)} would" if readers else "no architecture does here"
        twin = layout.settings(architecture).get(layout.setting(key))
        hint = f", did you mean {twin!r}" if twin else ""
        problems.append(f"model.{key} is {value!r}, which {architecture!r} does not follow ({known_by}){hint}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SpecError("; ".join(problems[:5]) + more + ": remove what is not meant.")


def _note_other_defaults(request: Request, given: Mapping[str, Any]) -> None:
    """Say so where PyTC itself has two defaults for an absent key, and give them different networks."""
    for key, other in request.layout.other_defaults.get(request.architecture, {}).items():
        if key not in given:
            _log.warning(
                "model.%s is absent: %r is taken, as PyTorch Connectomics does for a configuration file; "
                "its builder alone would take %r.",
                key,
                request.layout.defaults[key],
                other,
            )


def _whole_number(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"model.{key} is {value!r}, it must be a whole number of at least 1.")
    return value


def _truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"model.{key} is {value!r}, it must be true or false.")
    return value


def whole_numbers(key: str, value: Any) -> tuple[int, ...]:
    """Return `value` as whole numbers of at least 1; `key` names it in the error.

    Raises:
        SpecError: it is no list of them.
    """
    if not isinstance(value, list) or not value or any(type(item) is not int or item < 1 for item in value):
        raise SpecError(f"{key} is {value!r}, it must be a list of whole numbers of at least 1.")
    return tuple(value)
