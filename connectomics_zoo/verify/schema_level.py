"""Level `schema`: everything that can be proved by reading, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from connectomics_zoo import catalog
from connectomics_zoo.errors import ZooError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema import json_schema
from connectomics_zoo.schema.base import readable_path
from connectomics_zoo.schema.builder import interface_of
from connectomics_zoo.schema.experiment import RunSpec
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.expectation import Check, equal
from connectomics_zoo.specs.resolve import validate_arch
from connectomics_zoo.specs.selection import Target
from connectomics_zoo.verify.report import collect


def check_file(target: Target) -> tuple[ModelSpec | None, list[Check]]:
    """Return the spec in the target's file, None where it is none, and the checks of this level."""
    try:
        document = read_yaml(target.path)
    except ZooError as error:
        return None, [Check("file", ok=False, note=str(error))]
    is_run = document.get("kind") == "run"
    model = document.get("model") if is_run else document
    spec, checks = _parse(document, is_run=is_run)
    checks += collect("schema", "JSON Schema", _json_schema(model))
    if spec is not None and target.entry is not None:
        checks += collect("schema", "name", _place(spec, target.entry))
    if not is_run:
        checks += collect("schema", "lock", _lock(spec, document, target.entry))
    if isinstance(model, dict):
        checks += collect("schema", "interface", _interface(model, required=spec is not None))
    if spec is not None:
        checks += collect("schema", "expect", _expectation(spec, required=target.entry is not None))
    return spec, checks


def _parse(document: dict[str, Any], *, is_run: bool) -> tuple[ModelSpec | None, list[Check]]:
    try:
        spec = RunSpec.model_validate(document).model if is_run else ModelSpec.model_validate(document)
    except ValidationError as error:
        return None, [_rejected(item) for item in error.errors(include_url=False)]
    except Exception as error:  # a builder's own: the other models go on
        return None, [Check("spec", ok=False, note=f"{type(error).__name__}: {error}")]
    return spec, [Check("spec", ok=True)]


def _rejected(item: Any) -> Check:
    given = item.get("input")
    return Check(
        readable_path(item["loc"]) or "spec",
        ok=False,
        declared=given if isinstance(given, str | int | float | list) else None,
        note=item["msg"].removeprefix("Value error, "),
    )


def _json_schema(document: Any) -> Iterator[Check]:
    findings = json_schema.violations("model", document)
    for path, message in findings:
        yield Check(path or "spec", ok=False, note=f"JSON Schema: {message}")
    if not findings:
        yield Check("JSON Schema", ok=True)


def _place(spec: ModelSpec, entry: catalog.Entry) -> Iterator[Check]:
    """The file's place says the name, the family, and the version of one that is not current."""
    yield equal("name", spec.name, entry.name, "the file's stem is the name")
    yield equal("family", spec.family, entry.family, "the file's folder is the family")
    if entry.version is not None:
        yield equal("version", spec.version, entry.version, "the file's stem is name@version")
        return
    twins = [
        item.path.name
        for item in catalog.entries("model")
        if (item.catalog, item.name, item.version) == (entry.catalog, entry.name, spec.version)
    ]
    yield Check("version", not twins, note=f"{twins[0]} has the same version, remove it" if twins else "")


def _lock(spec: ModelSpec | None, document: dict[str, Any], entry: catalog.Entry | None) -> Iterator[Check]:
    """The spec is what was released; of a document that is no valid spec, what it states is."""
    home = None if entry is None else entry.catalog
    findings = (
        releases.check_released_document(document, home=home) if spec is None else releases.check(spec, home=home)
    )
    for path, declared, released, note in findings:
        yield Check(path, ok=False, declared=declared, measured=released, note=note)
    if not findings and spec is not None:
        yield Check("lock", ok=True)


def _interface(document: dict[str, Any], *, required: bool) -> Iterator[Check]:
    """Input and outputs are those that follow from `arch`; without `required`, as far as the document has them."""
    try:
        config = validate_arch(document["builder"], document["arch"], source="arch")
    except (ZooError, KeyError, TypeError):
        if required:
            raise
        return  # said by the checks of the types
    interface = interface_of(document["builder"], config)
    note = f"builder {document['builder']!r} with this arch"
    expected: dict[str, Any] = {
        "input.axes": interface.axes,
        "input.size.minimum": list(interface.minimum),
        "input.size.step": list(interface.step),
    }
    outputs = document.get("outputs")
    if not isinstance(outputs, list) or len(outputs) != len(interface.outputs):
        names = [_at(output, "name") for output in outputs] if isinstance(outputs, list) else None
        yield Check("outputs", ok=False, declared=names, measured=[item.name for item in interface.outputs], note=note)
    for index, geometry in enumerate(interface.outputs):
        expected[f"outputs[{index}].name"] = geometry.name
        expected[f"outputs[{index}].stride"] = list(geometry.stride)
        expected[f"outputs[{index}].loss_weight"] = geometry.loss_weight
    for path, value in expected.items():
        if _at(document, path) is not None:
            yield equal(path, _at(document, path), value, note)
    if isinstance(document.get("input"), dict):  # an absent context says something, too
        context = None if interface.context is None else list(interface.context)
        yield equal("input.context", _at(document, "input.context"), context, note)
    channels = _at(document, "outputs[0].channels")
    for index in range(1, len(interface.outputs)):
        path = f"outputs[{index}].channels"
        if _at(document, path) is not None:
            yield equal(path, _at(document, path), channels, "as outputs[0]")


def _at(document: Any, path: str) -> Any:
    """Return the value at `path` (`outputs[1].stride`) of a document, None where there is none."""
    for part in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    return document


def _expectation(spec: ModelSpec, *, required: bool) -> Iterator[Check]:
    """A catalogue's spec declares everything that can be measured, at inputs that the network takes."""
    expect = spec.expect
    missing = ["expect"] if expect is None else []
    if expect is not None:
        missing = [f"expect.{name}" for name in ("flops", "probe") if getattr(expect, name) is None]
        for name, part in (("flops", expect.flops), ("probe", expect.probe)):
            if part is not None:
                shape = part.input_shape
                legal = shape[1] == spec.input.channels and spec.input.size.allows(shape[2:])
                note = f"legal are {spec.input.channels} channel(s) and {spec.input.size.describe()} voxels"
                yield Check(f"expect.{name}.input_shape", legal, list(shape), note="" if legal else note)
        if expect.probe is not None:
            names = [output.name for output in spec.outputs]
            yield equal("expect.probe.outputs", list(expect.probe.outputs), names, "one for each of outputs")
    for path in missing if required else ():
        yield Check(path, ok=False, note=f"was not measured, record it with: zoo record {spec.reference}")
