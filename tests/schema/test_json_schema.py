"""Specs and their JSON Schemas: both accept the same files and refuse the same files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from support.second_catalog import second_catalog

from connectomics_zoo import catalog
from connectomics_zoo.cli.schema import command
from connectomics_zoo.errors import LimitError, SpecError, ZooError
from connectomics_zoo.files.yaml import MAX_BYTES, parse_yaml, read_yaml
from connectomics_zoo.schema.builder import builder_module
from connectomics_zoo.schema.json_schema import TYPES, schema_for, schema_text, violations
from connectomics_zoo.schema.validation import validate

CORPUS = Path(__file__).parent / "specs"
VALID = sorted((CORPUS / "valid").glob("*.yaml"))
INVALID = sorted((CORPUS / "invalid").glob("*.yaml"))
HOME = next(item for item in catalog.catalogs() if item.name == "zoo")
CATALOGUE = sorted((HOME.folder / "specs").glob("**/*.yaml"))


def kind_of(path):
    """The kind of a spec: the start of a corpus file's name, or the folder of a catalogue's."""
    if path.is_relative_to(CORPUS):
        return path.name.partition("-")[0]
    return path.relative_to(HOME.folder / "specs").parts[0].removesuffix("s")


def test_the_corpora_and_the_catalogue_hold_what_they_should():
    assert len(VALID) >= 10
    assert len(INVALID) >= 100
    assert {kind_of(path) for path in VALID} == set(TYPES) == {kind_of(path) for path in INVALID}
    assert {"model", "task"} <= {kind_of(path) for path in CATALOGUE}


@pytest.mark.parametrize("path", [*VALID, *CATALOGUE], ids=lambda path: path.stem)
def test_pydantic_and_json_schema_accept_a_valid_spec(path):
    document = read_yaml(path)
    validate(TYPES[kind_of(path)], document, source=path.name)
    assert violations(kind_of(path), document) == []


@pytest.mark.parametrize("path", [*VALID, *CATALOGUE], ids=lambda path: path.stem)
def test_what_pydantic_writes_of_a_valid_spec_both_read_again(path):
    kind = kind_of(path)
    spec = validate(TYPES[kind], read_yaml(path), source=path.name)
    document = json.loads(spec.model_dump_json())
    assert validate(TYPES[kind], document, source=path.name) == spec
    assert violations(kind, document) == []


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_pydantic_refuses_an_invalid_spec_with_the_message_in_its_first_line(path):
    expected = path.read_text().splitlines()[0].removeprefix("# error: ")
    assert len(expected) > 5
    with pytest.raises(ZooError) as caught:
        validate(TYPES[kind_of(path)], read_yaml(path), source=path.name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_the_reader_or_json_schema_refuses_an_invalid_spec(path):
    try:
        document = read_yaml(path)
    except SpecError:
        return
    assert violations(kind_of(path), document) != []


def test_a_file_over_the_limit_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("a: b\n" + "#" * MAX_BYTES)
    with pytest.raises(LimitError, match="larger than the 262144 bytes that a spec may have"):
        read_yaml(path)
    path.write_text("a: b\n" + "#" * (MAX_BYTES - 5))
    assert read_yaml(path) == {"a": "b"}


COMPLETE = read_yaml(CORPUS / "valid" / "model-complete.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.1.0"}, "changes has no entry for version 1.1.0"),
        ({"training": {"patch_size": [20, 32, 32]}}, r"patch_size \[20, 32, 32\] is not a legal input size, legal are"),
        ({"outputs": [COMPLETE["outputs"][0]] * 2}, r"outputs have the names \['output', 'output'\]"),
        ({"expect": {**COMPLETE["expect"], "fingerprint": None}}, "expect.fingerprint: Input should be a valid string"),
    ],
    ids=["version without a change", "illegal patch", "equal names", "null fingerprint"],
)
def test_pydantic_refuses_also_what_json_schema_cannot_say(changes, message):
    with pytest.raises(SpecError, match=message):
        validate(TYPES["model"], COMPLETE | changes, source="here")


TWO_CLASSES = read_yaml(CORPUS / "valid" / "task-softmax.yaml")


@pytest.mark.parametrize(
    ("kinds", "overlap"),
    [
        (("background", "foreground"), None),
        (("background", "presynapse", "postsynapse"), None),
        (("background", "foreground", "boundary"), r"both 'background-0' \(background\) and 'boundary-2' \(boundary\)"),
        (("foreground", "presynapse"), r"both 'foreground-0' \(foreground\) and 'presynapse-1' \(presynapse\)"),
        (("foreground", "foreground"), r"both 'foreground-0' \(foreground\) and 'foreground-1' \(foreground\)"),
    ],
)
def test_classes_of_a_softmax_must_exclude_each_other(kinds, overlap):
    channel = TWO_CLASSES["channels"][0]
    channels = [{**channel, "name": f"{kind}-{i}", "target": {"kind": kind}} for i, kind in enumerate(kinds)]
    task = {**TWO_CLASSES, "channels": channels}
    if overlap is None:
        validate(TYPES["task"], task, source="here")
        return
    with pytest.raises(SpecError, match=f"a voxel can be {overlap}, and softmax makes it one of them: give these"):
        validate(TYPES["task"], task, source="here")


def test_a_source_needs_no_citation():
    source = {key: value for key, value in COMPLETE["source"].items() if key != "bibtex"}
    assert validate(TYPES["model"], COMPLETE | {"source": source}, source="here").source.bibtex is None


@pytest.mark.parametrize("kind", tuple(TYPES))
def test_the_committed_schema_is_the_generated_one(kind):
    committed = (HOME.folder / "specs" / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(kind, home="zoo"), "run zoo record"


@pytest.mark.parametrize("kind", tuple(TYPES))
def test_zoo_schema_prints_the_schema_as_json(kind):
    result = CliRunner().invoke(command, [kind])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema_for(kind)


def test_zoo_schema_of_something_else_is_wrong_usage():
    result = CliRunner().invoke(command, ["run"])
    assert result.exit_code == 2
    assert "'run' is not one of 'model', 'task', 'experiment'" in result.output


@pytest.mark.parametrize("kind", tuple(TYPES))
def test_a_schema_is_draft_2020_12_with_an_id_a_title_and_a_description_for_every_field(kind):
    schema = schema_for(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:connectomics-zoo:{kind}:1"
    assert schema["title"] == f"connectomics-zoo {kind} spec"
    nodes = [schema, *schema["$defs"].values()]
    fields = [(name, field) for node in nodes for name, field in node.get("properties", {}).items()]
    assert len(fields) > 10
    assert [name for name, field in fields if "description" not in field] == []


def test_the_builder_decides_the_schema_of_arch():
    schema = schema_for("model")
    assert schema["properties"]["builder"]["enum"] == sorted(catalog.builders())
    for name in catalog.builders():
        config = schema["$defs"][f"arch.{name}"]
        assert config["additionalProperties"] is False
        assert set(config["properties"]) == set(builder_module(name).Config.model_fields)


def test_a_committed_schema_knows_no_builders_of_other_catalogues(tmp_path, monkeypatch):
    with second_catalog(tmp_path):
        foreign = catalog.builders() | {"foreign": "other_zoo.builders.foreign"}
        monkeypatch.setattr(catalog, "builders", lambda: foreign)
        assert "foreign" not in schema_for("model", home="zoo")["properties"]["builder"]["enum"]


@pytest.mark.parametrize("kind", tuple(TYPES))
def test_no_object_of_a_schema_is_open_to_unknown_keys(kind):
    schema = schema_for(kind)
    open_objects = [
        name
        for name, node in {"": schema, **schema["$defs"]}.items()
        if node.get("type") == "object" and node.get("additionalProperties") is not False
    ]
    assert open_objects == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{base_channels: 4, kernel_size: 4}", "arch.kernel_size: 4 should not be valid"),
        ("{base_channels: 4}", "arch: 'kernel_size' is a required property or 'encoder_kernel_size' is"),
        ("{base_channels: 4.0, kernel_size: 3}", "arch.base_channels: 4.0 is not of type 'integer'"),
        ("{kernel_size: 3, expansion_ratios: [1, 2]}", "arch.expansion_ratios: [1, 2] is too short"),
    ],
)
def test_a_finding_of_json_schema_has_a_readable_path(text, finding):
    findings = violations("model", COMPLETE | {"arch": parse_yaml(text)})
    assert len(findings) == 1
    assert ": ".join(findings[0]).startswith(finding)


@pytest.mark.parametrize("path", CATALOGUE, ids=lambda path: path.stem)
def test_the_first_line_of_a_catalogue_file_names_its_schema_for_editors(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert match is not None, first
    schema = (path.parent / match[1]).resolve()
    assert schema == (HOME.folder / "specs" / "schema" / f"{kind_of(path)}.schema.json").resolve()
    assert schema.is_file()


def test_printing_a_schema_imports_no_torch():
    code = (
        "import sys; from connectomics_zoo.schema.json_schema import schema_text; schema_text('model');"
        "print([name for name in ('torch', 'lightning', 'monai', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
