"""Reads the `model` section of a PyTorch Connectomics (PyTC) configuration, and leaves no key of it out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from connectomics_zoo.compat.layouts import FLAT, NESTED, STARTS, UNSUPPORTED, Layout, profiles
from connectomics_zoo.errors import SpecError, UnknownNameError, nearest
from connectomics_zoo.schema.builder import pytc_architectures
from connectomics_zoo.schema.pytc import PytcRequest, whole_numbers

_log = logging.getLogger(__name__)

MISSING = "???"
"""How OmegaConf marks a value that must be given."""


def read_request(model: Mapping[str, Any]) -> PytcRequest:
    """Return what the section `model` asks for.

    Raises:
        UnknownNameError: the architecture, or a key, does not exist.
        SpecError: a key differs from its default although the network does not follow it.
    """
    layout = _layout(model)
    explicit = dict(_flatten(model, layout))
    defaults = layout.defaults
    unknown = [f"unknown key model.{key}, {nearest(key, defaults)}" for key in explicit.keys() - defaults]
    if unknown:
        raise UnknownNameError("; ".join(sorted(unknown)[:5]))
    for key, value in explicit.items():
        if value == MISSING:
            raise SpecError(f"model.{key} is {MISSING!r}, give it a value.")
    given = _apply_profile(explicit) if layout is NESTED else explicit
    architecture = _architecture(given, layout)
    _refuse_without_effect(architecture, explicit, given, layout)
    _note_weights(explicit)
    values = {**defaults, **layout.own_defaults(architecture), **given}
    keys = layout.settings(architecture)
    request = PytcRequest(
        architecture=architecture,
        generation=layout.generation,
        in_channels=_whole_number("in_channels", values["in_channels"]),
        out_channels=_whole_number("out_channels", values["out_channels"]),
        deep_supervision=_truth(layout.deep_supervision, values[layout.deep_supervision]),
        input_size=whole_numbers("input_size", explicit["input_size"]) if "input_size" in explicit else None,
        settings={name: values[key] for name, key in keys.items()},
        defaults={name: defaults[key] for name, key in keys.items()},
        keys=keys,
    )
    for setting, (other, wanted) in pytc_architectures()[architecture].needs.items():
        default = request.defaults[setting]
        is_set = explicit.get(keys[setting], default) not in (default, *_in_profiles(keys[setting]))
        if is_set and request.settings[other] != wanted:
            raise request.refuse(setting, f"which has no effect with {other} {request.settings[other]!r}: remove it")
    _note_fallbacks(request, given)
    return request


def _layout(model: Mapping[str, Any]) -> Layout:
    if "arch" in model and "architecture" in model:
        raise SpecError("model has both 'architecture' and 'arch', which are of different generations: keep one.")
    if "arch" in model:
        return NESTED
    if "architecture" in model:
        return FLAT
    raise SpecError(f"model has no 'architecture', give one of {', '.join(pytc_architectures())}.")


def _flatten(section: Mapping[str, Any], layout: Layout, prefix: str = "") -> Iterable[tuple[str, Any]]:
    known = layout.defaults
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in known:
            yield from _flatten(value, layout, f"{key}.")
        else:
            yield key, value


def _apply_profile(given: dict[str, Any]) -> dict[str, Any]:
    profile = given.get("arch.profile")
    if profile is None:
        return given
    known = profiles()
    if not isinstance(profile, str) or profile not in known:
        raise UnknownNameError(
            f"unknown model.arch.profile {profile!r} (known are {', '.join(known)}), "
            "let PyTorch Connectomics resolve one of your own and set it to null."
        )
    merged = {**known[profile], **given}
    if merged["arch.type"] != known[profile]["arch.type"]:
        raise SpecError(f"model.arch.profile {profile!r} is not of type {merged['arch.type']!r}, keep one of them.")
    return merged


def _architecture(given: Mapping[str, Any], layout: Layout) -> str:
    known = pytc_architectures()
    if layout.architecture not in given:
        raise SpecError(f"model has no {layout.architecture!r}, give one of {', '.join(known)}.")
    architecture = given[layout.architecture]
    if not isinstance(architecture, str):
        raise SpecError(f"model.{layout.architecture} is {architecture!r}, it must be one of {', '.join(known)}.")
    if architecture in UNSUPPORTED:
        raise UnknownNameError(
            f"the architecture {architecture!r} is not built here ({UNSUPPORTED[architecture]}), "
            f"there are {', '.join(known)}."
        )
    if architecture not in known:
        raise UnknownNameError(f"unknown architecture {architecture!r}, {nearest(architecture, known)}")
    return architecture


def _in_profiles(key: str) -> list[Any]:
    """Return what PyTC writes for `key` where it resolves a profile itself, whatever else the configuration says."""
    return [profile[key] for profile in profiles().values() if key in profile]


def _note_weights(explicit: Mapping[str, Any]) -> None:
    """Say that PyTC would start from a file: here it is converted first."""
    for key in STARTS:
        if explicit.get(key) is not None:
            _log.warning(
                "model.%s %r is not read: the network is fresh; make the file loadable by zoo convert, and load it "
                "with zoo.load(network.spec, init_from=…).",
                key,
                explicit[key],
            )


def _refuse_without_effect(
    architecture: str, explicit: Mapping[str, Any], given: Mapping[str, Any], layout: Layout
) -> None:
    """Refuse every key that differs from its default although the network of `architecture` does not follow it.

    A hint names the setting of the same meaning, unless that has a value, from the user or (in `given`) a profile: with
    another one it would be another network.
    """
    followed = {*layout.settings(architecture).values(), *layout.not_network}
    followed |= {layout.architecture, "arch.profile", "input_size", "in_channels", "out_channels"}
    if pytc_architectures()[architecture].supervised:
        followed.add(layout.deep_supervision)
    problems, defaults = [], layout.defaults
    for key, value in explicit.items():
        if key in followed or value == defaults[key]:
            continue
        readers = [name for name in pytc_architectures() if key in layout.settings(name).values()]
        if key == layout.deep_supervision:
            readers = [name for name, item in pytc_architectures().items() if item.supervised]
        known_by = f"{', '.join(readers)} would" if readers else "no architecture does here"
        twin = layout.settings(architecture).get(layout.setting(key))
        hint = f", did you mean {twin!r}" if twin and twin not in given else ""
        problems.append(f"model.{key} is {value!r}, which {architecture!r} does not follow ({known_by}){hint}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SpecError("; ".join(problems[:5]) + more + ": remove what is not meant.")


def _note_fallbacks(request: PytcRequest, given: Mapping[str, Any]) -> None:
    """Say so where PyTC itself has two defaults for an absent key, and give them different networks."""
    for setting, other in pytc_architectures()[request.architecture].fallbacks.items():
        key, default = request.keys[setting], request.defaults[setting]
        if key not in given and other != default:
            _log.warning(
                "model.%s is absent: %r is taken, as PyTorch Connectomics does for a configuration file; "
                "its builder alone would take %r.",
                key,
                default,
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
