"""JSON Schemas (draft 2020-12) of the three kinds of spec, generated from the pydantic types."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jsonschema
from jsonschema.exceptions import best_match
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from connectomics_zoo import catalog
from connectomics_zoo.catalog import SpecKind
from connectomics_zoo.schema.augmentation import PRESETS, AugmentationSpec
from connectomics_zoo.schema.base import readable_path
from connectomics_zoo.schema.builder import builder_module, is_usable
from connectomics_zoo.schema.experiment import ExperimentSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.schema.target import TARGET_FIELDS
from connectomics_zoo.schema.task import DECODE_FIELDS, LOSS_ACTIVATIONS, TaskSpec
from connectomics_zoo.schema.training import TrainingSpec

TYPES: dict[SpecKind, type[BaseModel]] = {"model": ModelSpec, "task": TaskSpec, "experiment": ExperimentSpec}
"""The type that each kind of spec is generated from."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MAX_MESSAGE = 200


class _Described(GenerateJsonSchema):
    """With the docstrings under the fields, and without a title on every field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        result = super().model_schema(schema)
        _describe_fields(result, schema["cls"])
        return result


def _describe_fields(schema: dict[str, Any], model: type[BaseModel]) -> None:
    docstrings = _field_docstrings(model)
    for name, field in schema.get("properties", {}).items():
        if name in docstrings:
            field["description"] = docstrings[name]


def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings under the fields of `model`, from its source and those of its base classes.

    Pydantic's `use_attribute_docstrings` reads the sources whenever the types are imported, too slow for `zoo show`.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        found |= _docstrings_in(base.__module__).get(base.__qualname__, {})
    return {name: text for name, text in found.items() if name in model.model_fields}


@functools.cache
def _docstrings_in(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings under the fields of a module's classes, empty for a module without source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {item.name: _docstrings_under(item) for item in tree.body if isinstance(item, ast.ClassDef)}


def _docstrings_under(definition: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, text in pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                found[name] = inspect.cleandoc(docstring)
    return found


def schema_for(kind: SpecKind, *, home: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema of `kind`, with the descriptions of the types' docstrings.

    A model's `arch` is checked against its builder's fields. What JSON Schema cannot say (a legal patch size,
    distinct names, an entry for the version in `changes`) is left to pydantic.

    Args:
        kind: which spec.
        home: the catalogue whose builders, beside the built-in ones, `builder` may name; by default every
            installed one.
    """
    names = _builders(home) if kind == "model" else []
    return _schema(kind, names=names, described=names)


def _schema(kind: SpecKind, *, names: Sequence[str], described: Sequence[str]) -> dict[str, Any]:
    """Return the schema in which `builder` is one of `names`, and `arch` of those `described` is checked."""
    schema = TYPES[kind].model_json_schema(schema_generator=_Described)
    if kind == "model":
        _compose_arch(schema, names=names, described=described)
        _add_model_rules(schema)
    elif kind == "task":
        _add_task_rules(schema)
    else:
        _add_experiment_rules(schema)
    _add_augmentation_rules(schema)
    _close_mappings(schema)
    version = schema["properties"]["schema_version"]["const"]
    return {
        "$schema": _DIALECT,
        "$id": f"urn:connectomics-zoo:{kind}:{version}",
        **schema,
        "title": f"connectomics-zoo {kind} spec",
    }


def schema_text(kind: SpecKind, *, home: str | None = None) -> str:
    """Return the JSON Schema of `kind` as the text of its file."""
    return json.dumps(schema_for(kind, home=home), indent=2, ensure_ascii=False) + "\n"


class SchemaViolation(NamedTuple):
    """What is wrong with a document."""

    path: str
    """Where, such as `outputs[1].stride`; empty for the whole document."""
    message: str
    """What."""


def violations(kind: SpecKind, document: Any) -> list[SchemaViolation]:
    """Return what is wrong with `document` by its JSON Schema, an empty list if nothing is.

    As in pydantic's strict mode, and unlike in plain JSON Schema, 1.0 is no whole number.
    """
    named = document.get("builder") if kind == "model" and isinstance(document, dict) else None
    builders = catalog.builders()
    is_foreign = isinstance(named, str) and named in builders and not catalog.find_builder(named).catalog.is_builtin
    validator = _validator(kind, tuple(builders), named if is_foreign else None)
    return [_finding(error) for error in sorted(validator.iter_errors(document), key=_position)]


@functools.cache
def _validator(kind: SpecKind, builders: tuple[str, ...], foreign: str | None) -> Any:
    """The validator of `kind` where these `builders` are known; of other packages, only the one `foreign` is run."""
    built_in = [name for name in builders if catalog.find_builder(name).catalog.is_builtin]
    described = [name for name in (*built_in, *filter(None, [foreign])) if is_usable(name)]
    schema = _schema(kind, names=builders, described=described)
    jsonschema.Draft202012Validator.check_schema(schema)
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    strict: Any = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)  # type: ignore[no-untyped-call]
    return strict(schema)


def _position(error: Any) -> str:
    return str(error.json_path)


def _finding(error: Any) -> SchemaViolation:
    specific = best_match([error]) or error
    alternatives = list(dict.fromkeys(item.message for item in specific.context))
    message = " or ".join(alternatives) or str(specific.message)
    if len(message) > _MAX_MESSAGE:
        message = f"{message[: _MAX_MESSAGE // 2]} … {message[-_MAX_MESSAGE // 2 :]}"
    return SchemaViolation(readable_path(specific.absolute_path), message)


def _builders(home: str | None) -> list[str]:
    packages = [item.package for item in catalog.catalogs() if home is None or item.name == home or item.is_builtin]
    prefixes = tuple(f"{package}.builders." for package in packages)
    return [name for name, place in catalog.builders().items() if place.startswith(prefixes) and is_usable(name)]


def _compose_arch(schema: dict[str, Any], *, names: Iterable[str], described: Iterable[str]) -> None:
    """Make `builder` an enumeration, and let it decide the schema of `arch`."""
    definitions = schema["$defs"]
    definitions.pop("BuilderConfig", None)
    choices = []
    for name in sorted(described):
        config = builder_module(name).Config.model_json_schema(
            schema_generator=_Described, ref_template=f"#/$defs/{name}.{{model}}"
        )
        definitions |= {f"{name}.{key}": value for key, value in config.pop("$defs", {}).items()}
        definitions[f"arch.{name}"] = {**config, "title": f"arch of {name}"}
        choices.append(_when({"builder": {"const": name}}, {"arch": {"$ref": f"#/$defs/arch.{name}"}}))
    properties = schema["properties"]
    properties["builder"] = {
        "description": properties["builder"]["description"],
        "enum": sorted(names),
    }
    properties["arch"] = {"description": properties["arch"]["description"], "type": "object"}
    schema["allOf"] = choices


def _when(condition: dict[str, Any], consequence: dict[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    then: dict[str, Any] = {"properties": consequence}
    if required:
        then["required"] = list(required)
    return {"if": {"properties": condition, "required": list(condition)}, "then": then}


def _add_model_rules(schema: dict[str, Any]) -> None:
    """Say in JSON Schema what `ModelSpec`'s validators say: full resolution first, and one rank everywhere."""
    schema["properties"]["outputs"]["prefixItems"] = [
        {"$ref": "#/$defs/OutputSpec", "properties": {"stride": {"items": {"const": 1}}}}
    ]
    for axes in ("zyx", "yx"):
        rank = {"minItems": len(axes), "maxItems": len(axes)}
        schema["allOf"].append(
            _when(
                {"input": {"type": "object", "properties": {"axes": {"const": axes}}, "required": ["axes"]}},
                {
                    "input": {
                        "properties": {
                            "size": {"properties": {"minimum": rank, "step": rank}},
                            "context": {"anyOf": [rank, {"type": "null"}]},
                        }
                    },
                    "outputs": {"items": {"properties": {"stride": rank}}},
                    "training": {"properties": {"patch_size": rank}},
                },
            )
        )


def _add_task_rules(schema: dict[str, Any]) -> None:
    """Say in JSON Schema what `TaskSpec`'s validators say about activations and losses."""
    channels = schema["properties"]["channels"]
    softmax = {"type": "object", "properties": {"activation": {"const": "softmax"}}, "required": ["activation"]}
    has_loss = {"type": "object", "properties": {"losses": {"type": "array", "minItems": 1}}, "required": ["losses"]}
    channels["contains"] = has_loss
    channels["not"] = {"contains": softmax, "minContains": 1, "maxContains": 1}
    definitions = schema["$defs"]
    definitions["ChannelSpec"]["allOf"] = [
        _when(
            {"losses": {"type": "array", "contains": {"type": "object", "properties": {"kind": {"const": loss}}}}},
            {"activation": {"enum": list(activations)}},
        )
        for loss, activations in LOSS_ACTIVATIONS.items()
    ]
    definitions["TargetSpec"]["allOf"] = _fields_by("kind", TARGET_FIELDS)
    definitions["DecodeSpec"]["allOf"] = _fields_by("method", DECODE_FIELDS)
    offset = definitions["TargetSpec"]["properties"]["offset"]
    offset["not"] = {"type": "array", "prefixItems": [{"const": 0}] * 3, "minItems": 3}
    affinity, joining = _target({"kind": {"const": "affinity"}}), _target({"attractive": {"const": True}})
    foreground = _target({"kind": {"const": "foreground"}})
    schema["allOf"] = [
        _when(
            {"decode": {"type": "object", "properties": {"method": {"const": "argmax"}}, "required": ["method"]}},
            {"channels": {"items": {"properties": {"activation": {"const": "softmax"}}}}},
        ),
        _when(
            {"channels": {"type": "array", "contains": affinity}},
            {"affinities": {"type": "object"}},
            required=["affinities"],
        ),
        _when({"affinities": {"type": "object"}}, {"channels": {"contains": affinity}}),
        *(
            _when(
                {"decode": {"type": "object", "properties": {"method": {"const": method}}, "required": ["method"]}},
                {"channels": {"contains": needed}},
            )
            for method, needed in (
                ("mutex", joining),
                ("agglomeration", joining),
                ("components", {"anyOf": [joining, foreground]}),
                ("watershed", {"anyOf": [joining, foreground]}),
            )
        ),
    ]


def _fields_by(what: str, fields: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Say for each value of `what` which of the optional fields it needs; it has no others."""
    optional = list(dict.fromkeys(itertools.chain(*fields.values())))
    return [
        _when(
            {what: {"const": value}},
            {name: {"not": {"type": "null"}} if name in own else {"type": "null"} for name in optional},
            required=list(own),
        )
        for value, own in fields.items()
    ]


def _target(properties: dict[str, Any]) -> dict[str, Any]:
    """Match a channel whose target has `properties`."""
    target = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "object", "properties": {"target": target}, "required": ["target"]}


def _add_experiment_rules(schema: dict[str, Any]) -> None:
    """Let one volume stand where a list may, as `DataSpec` does, and describe what may be changed of the recipe."""
    _describe_fields(schema["$defs"]["TrainingChanges"], TrainingSpec)
    properties = schema["$defs"]["DataSpec"]["properties"]
    for name in ("train", "validation"):
        many = properties[name]
        description, default = many.pop("description"), many.pop("default")
        properties[name] = {"description": description, "default": default, "anyOf": [many, many["items"]]}
    properties["validation"]["anyOf"].append({"const": "auto"})


def _add_augmentation_rules(schema: dict[str, Any]) -> None:
    """Let a preset's name stand where a mapping may, as `AugmentationChanges` does, and describe the mapping."""
    definitions = schema["$defs"]
    if "AugmentationChanges" not in definitions:
        return
    _describe_fields(definitions["AugmentationChanges"], AugmentationSpec)
    preset = {"enum": list(PRESETS), "type": "string"}
    for recipe in definitions.keys() & {"TrainingSpec", "TrainingChanges"}:
        field = definitions[recipe]["properties"]["augmentation"]
        mapping = {"$ref": field.pop("$ref")} if "$ref" in field else None
        field["anyOf"] = [preset, *([mapping] if mapping else field["anyOf"])]


def _close_mappings(schema: Any) -> None:
    """Refuse keys that do not match the pattern of a mapping's keys, which pydantic's schema leaves open."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close_mappings(value)
    elif isinstance(schema, list):
        for value in schema:
            _close_mappings(value)
