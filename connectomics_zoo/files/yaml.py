"""Reads YAML as plain data, with YAML's traps closed: what is surprising is an error, never a guess.

The dialect is YAML 1.2's core schema without anchors and aliases: `1e-3` is a number, `no` is a string,
`1:30` is a string, a key may stand once, and a file may have at most `MAX_BYTES` bytes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from connectomics_zoo.errors import LimitError, SpecError, printable

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc]  # the C loader has no types
    """A safe loader with YAML 1.2 scalars, which refuses tags and duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise SpecError(f"{_where(key_node)}: the key {key!r} is not a string, put it in quotes.")
            if key in mapping:
                raise SpecError(f"{_where(key_node)}: the key {key!r} stands twice, keep one.")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


def _where(item: Any) -> str:
    mark = item.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _construct_map(loader: Any, node: Any) -> Any:
    return loader.construct_mapping(node)


def _construct_int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 40:
        raise SpecError(f"{_where(node)}: a whole number of {len(text)} digits, at most 40 are allowed.")
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        raise SpecError(f"{_where(node)}: {text!r} starts with 0 (octal or decimal?), write it without or in quotes.")
    return int(text, 0)


def _construct_float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node)
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise SpecError(f"{_where(node)}: {text!r} is not a finite number, and every number in a spec must be.")
    return value


def _refuse_tag(loader: Any, node: Any) -> Any:
    raise SpecError(f"{_where(node)}: the tag {node.tag!r} is not allowed, a spec is plain data.")


# Inherited from SafeLoader are YAML 1.1's resolvers (yes/no, 1:30, 2026-01-01, 0o17); replace them all.
_StrictLoader.yaml_implicit_resolvers = {}
_StrictLoader.yaml_constructors = {}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_StrictLoader.add_constructor("tag:yaml.org,2002:null", yaml.constructor.SafeConstructor.construct_yaml_null)
_StrictLoader.add_constructor("tag:yaml.org,2002:bool", yaml.constructor.SafeConstructor.construct_yaml_bool)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", yaml.constructor.SafeConstructor.construct_yaml_str)
_StrictLoader.add_constructor("tag:yaml.org,2002:seq", lambda loader, node: loader.construct_sequence(node, deep=True))
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_StrictLoader.add_constructor(None, _refuse_tag)


def parse_yaml(text: str, *, source: str = "the text") -> Any:
    """Return the one document in `text` as plain data; `source` names it in errors.

    Raises:
        SpecError: it is no YAML, or uses what the dialect above leaves out.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_StrictLoader)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{source}:{where} not valid YAML ({problem}), mend it there.") from None


def _check_events(text: str) -> None:
    """Refuse anchors, aliases and deep nesting before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            raise SpecError(f"{_where(event)}: anchors and aliases ({anchor}) are not allowed, write the value out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise SpecError(f"{_where(event)}: nested deeper than {MAX_DEPTH} levels, which no spec needs.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`.

    Raises:
        SpecError: the file is missing, not UTF-8, not YAML, or not a mapping.
        LimitError: the file has more than `MAX_BYTES` bytes; nothing was read.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}), check the path.") from None
    if len(content) > MAX_BYTES:
        raise LimitError(f"{path}: larger than the {MAX_BYTES} bytes that a spec may have, is it a spec?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start}), save it as UTF-8.") from None
    document = parse_yaml(text, source=str(path))
    if not isinstance(document, dict):
        raise SpecError(f"{path}: holds {type(document).__name__}, a spec is a mapping of keys to values.")
    return document


def dump_yaml(document: Any) -> str:
    """Return `document` as YAML in the style of the catalogue: block mappings, short lists in one line."""
    text = yaml.dump(document, Dumper=_FlowListDumper, sort_keys=False, allow_unicode=True, width=110)
    # PyYAML leaves what turns the direction of a text as it is; it stands between double quotes, see below.
    return printable(text, keep="\n")


class _FlowListDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: Any) -> Any:
    flow = all(not isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


def _represent_string(dumper: yaml.SafeDumper, data: str) -> Any:
    if printable(data, keep="\n") != data:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style='"')
    style = "|" if "\n" in data else None
    # What our reader takes for another type (`1e-3`) must be quoted; PyYAML knows only its own dialect.
    if style is None and parses_to_other_type(data):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


def parses_to_other_type(text: str) -> bool:
    """Whether `text`, unquoted in YAML, would be read as something else than this string."""
    resolvers = _StrictLoader.yaml_implicit_resolvers
    candidates = resolvers.get(text[:1], [])
    return any(pattern.match(text) for _, pattern in candidates)


_FlowListDumper.add_representer(list, _represent_list)
_FlowListDumper.add_representer(tuple, _represent_list)
_FlowListDumper.add_representer(str, _represent_string)
