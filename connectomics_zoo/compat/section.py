"""Finds the `model` section of a configuration, in whatever object it comes, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from connectomics_zoo.errors import SpecError


def model_section(config: object) -> dict[str, Any]:
    """Return `config.model` as dicts, lists and scalars; the rest of the configuration is not touched.

    Args:
        config: a mapping, an OmegaConf node, a dataclass or a namespace.

    Raises:
        SpecError: there is no `model`, or it is no section.
    """
    if _is_omegaconf(config) or isinstance(config, Mapping):
        mapping: Any = config
        names = [str(key) for key in mapping]
        section = _item(mapping, "model") if "model" in names else None
    else:
        fields = _fields(config)
        names, section = list(fields), fields.get("model")
    if section is None:
        found = f"it has {', '.join(names[:8])}" if names else f"it is {type(config).__name__}"
        raise SpecError(f"the configuration has no 'model' ({found}), give the whole resolved configuration.")
    plain = _plain(section)
    if not isinstance(plain, dict):
        raise SpecError(f"model is {plain!r}, it must be a section with an architecture.")
    return plain


def _is_omegaconf(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "omegaconf"


def _item(mapping: Any, key: str) -> Any:
    """Return `mapping[key]`, which OmegaConf resolves."""
    if not _is_omegaconf(mapping):
        return mapping[key]
    from omegaconf.errors import OmegaConfBaseException

    try:
        return mapping[key]
    except OmegaConfBaseException as error:
        raise SpecError(f"{key}: {str(error).splitlines()[0]}, resolve the configuration first.") from None


def _fields(value: object) -> dict[str, Any]:
    """Return the attributes of a dataclass or namespace, or nothing."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    is_data = isinstance(value, str | bytes | int | float | list | tuple | type(None))
    return {} if is_data or isinstance(value, type) else dict(getattr(value, "__dict__", {}))


def _plain(value: Any) -> Any:
    """Return mappings as dicts, sequences as lists, and scalars as they are."""
    if _is_omegaconf(value):
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            return OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise SpecError(f"model: {str(error).splitlines()[0]}, resolve the configuration first.") from None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    fields = _fields(value)
    return {key: _plain(item) for key, item in fields.items()} if fields else value
