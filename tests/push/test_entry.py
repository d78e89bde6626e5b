"""Weights beside a spec: its entry for them, and nothing else of its text."""

from __future__ import annotations

import json

import pytest
import torch

from connectomics_zoo.errors import SpecError, WeightsError
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml
from connectomics_zoo.files.yaml_blocks import replace_block
from connectomics_zoo.push import PushRequest, ship
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.schema.model import WeightsEntry
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.load import load


def test_weights_that_are_shipped_load_by_tag_and_pass_verify(run, spec_file):
    before = spec_file.read_text()
    report = ship(PushRequest(run, name="small"), spec_file)
    spec = get_spec(spec_file)
    assert spec.weights["small"] == WeightsEntry.model_validate(report.entry)
    assert (spec.weights["small"].source, spec.weights["small"].file) == ("package", "tiny.small.safetensors")
    assert spec.model_copy(update={"weights": {}}) == get_spec_of(before)
    network = load(str(spec_file), pretrained="small")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in load(run).state_dict().items())
    assert verify([str(spec_file)], level="weights").passed


def get_spec_of(text):
    from connectomics_zoo.schema.model import ModelSpec
    from connectomics_zoo.schema.validation import validate

    return validate(ModelSpec, parse_yaml(text), source="before")


def test_a_spec_keeps_every_other_byte(run, spec_file):
    text = spec_file.read_text().replace("source:\n", "\n# whose it is\nsource:\n") + "# the end\n"
    spec_file.write_text(text)
    ship(PushRequest(run, name="first"), spec_file)
    first = spec_file.read_text()
    assert replace_block(first, "weights", "") == text
    ship(PushRequest(run, name="second", half=True), spec_file)
    assert first.partition("\n# whose")[0] in spec_file.read_text()
    assert replace_block(spec_file.read_text(), "weights", "") == text
    assert list(get_spec(spec_file).weights) == ["first", "second"]


@pytest.mark.parametrize("weights", ["weights: {}\n", "weights:\n", "weights: {}  # none yet\n"])
def test_an_empty_block_of_weights_is_filled(run, spec_file, weights):
    if weights == "weights:\n":
        weights = "weights: {\n  }\n"
    spec_file.write_text(spec_file.read_text() + weights.rstrip("\n"))
    ship(PushRequest(run), spec_file)
    assert list(get_spec(spec_file).weights) == ["mito"]


def test_line_ends_of_windows_stay(run, spec_file):
    spec_file.write_bytes(spec_file.read_bytes().replace(b"\n", b"\r\n"))
    ship(PushRequest(run), spec_file)
    assert b"\n" not in spec_file.read_bytes().replace(b"\r\n", b"")
    assert "mito" in get_spec(spec_file).weights


def test_shipping_twice_changes_nothing(run, spec_file):
    ship(PushRequest(run), spec_file)
    before = {path.name: path.read_bytes() for path in spec_file.parent.glob("tiny*")}
    ship(PushRequest(run), spec_file)
    assert {path.name: path.read_bytes() for path in spec_file.parent.glob("tiny*")} == before


def test_a_tag_of_other_weights_is_refused_and_nothing_is_written(run, spec_file):
    ship(PushRequest(run), spec_file)
    before = {path.name: path.read_bytes() for path in spec_file.parent.glob("tiny*")}
    with pytest.raises(WeightsError, match=r"has weights 'mito' already, and they are others .*--name"):
        ship(PushRequest(run, half=True), spec_file)
    assert {path.name: path.read_bytes() for path in spec_file.parent.glob("tiny*")} == before


def test_the_spec_of_another_model_is_refused(run, tmp_path):
    for change, field in (({"version": "1.0.1", "changes": {"1.0.1": "New."}}, "version"), ({"name": "other"}, "name")):
        path = tmp_path / f"{field}.yaml"
        path.write_text(dump_yaml({**get_run(run).model.model_dump(mode="json"), **change}))
        with pytest.raises(SpecError, match=f"is not the spec of the model that was trained, its {field} differs"):
            ship(PushRequest(run), path)
    path = tmp_path / "arch.yaml"
    document = get_run(run).model.model_dump(mode="json")
    path.write_text(dump_yaml({**document, "arch": {**document["arch"], "base_channels": 4}}))
    with pytest.raises(SpecError, match=r"its arch differs: give that of tiny@1\.0\.0"):
        ship(PushRequest(run), path)


def test_a_dry_run_of_shipping_leaves_the_spec_as_it_is(run, spec_file, tmp_path):
    before = spec_file.read_bytes()
    report = ship(PushRequest(run), spec_file, output=tmp_path / "out")
    assert spec_file.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.mito.safetensors"]
    assert report.entry["source"] == "package"


def test_a_spec_of_another_style_is_found_before_the_weights_are_put_beside_it(run, spec_file):
    document = spec_file.with_name("json.yaml")
    document.write_text(json.dumps(get_spec(spec_file).model_dump(mode="json")))
    with pytest.raises(SpecError):
        ship(PushRequest(run), document)
    assert not list(spec_file.parent.glob("*.safetensors"))
