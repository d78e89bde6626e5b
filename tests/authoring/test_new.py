"""New models: complete, measured, valid, never over an existing file, never half written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectomics_zoo import catalog
from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.errors import OutputError, SpecError, UnknownNameError
from connectomics_zoo.network import build
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.overrides import parse_overrides
from connectomics_zoo.specs.spec_file import spec_file, spec_text, write_spec

SMALL = {"arch": {"base_channels": 2}, "training": {"patch_size": [16, 32, 32]}}


@pytest.fixture(scope="module")
def small():
    return new_spec("small", base="mednext-S", changes=SMALL)


def test_a_new_model_is_measured_and_says_what_it_was_made_from(small):
    assert (small.name, small.version) == ("small", "1.0.0")
    assert small.expect == build.measure_expectation(small)
    assert small.expect.parameters.training < 100_000
    assert small.summary == "mednext-S 1.0.0 with arch.base_channels=2, training.patch_size=[16, 32, 32]."
    assert dict(small.changes) == {"1.0.0": f"Made from {small.summary}"}


def test_what_is_written_is_read_back(small, tmp_path):
    path = spec_file("small", output=tmp_path)
    write_spec(small, path=path)
    assert path == tmp_path / "small.yaml"
    assert get_spec(path) == small
    assert [item.name for item in tmp_path.iterdir()] == ["small.yaml"]


def test_channels_of_input_and_outputs_can_be_given():
    changes = parse_overrides(["arch.base_channels=1", "input.channels=3", "outputs.channels=5", "summary=Mine."])
    spec = new_spec("mine", base="mednext-S", changes=changes)
    assert spec.input.channels == 3
    assert {output.channels for output in spec.outputs} == {5}
    assert spec.expect.probe.input_shape[1] == 3
    assert spec.summary == "Mine."


def test_trained_weights_are_not_inherited(small):
    entry = {
        "file": "a.safetensors",
        "sha256": "0" * 64,
        "task": "mito",
        "dataset": "D.",
        "license": "MIT",
    }
    trained = type(small).model_validate(small.model_dump(mode="json") | {"weights": {"mito": entry}})
    assert new_spec("other", base=trained, changes={}).weights == {}


def test_a_long_story_still_fits_in_a_sentence(small):
    source = {"paper": "P" * 390}
    assert len(new_spec("long", base=small, changes={"source": source}).summary) <= 400


@pytest.mark.parametrize("name", ["", "1x", "a b", "a/b", "../a", "a.b", "ä", "a" * 65, "-a"])
def test_an_illegal_name_is_refused(name):
    with pytest.raises(SpecError, match=r"is no legal name for a model, write a letter and then at most 63"):
        new_spec(name, base="mednext-S", changes=SMALL)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"arch": {"kernal_size": 5}}, UnknownNameError, "unknown key arch.kernal_size .*'kernel_size'"),
        ({"arch": {"base_channels": 0}}, SpecError, "base_channels: Input should be greater than or equal to 1"),
        ({"version": "2.0.0"}, SpecError, "version is fixed in mednext-S"),
        ({"arch": {"base_channels": 1024, "expansion_ratios": 64}}, SpecError, "parameters, at most 1e.09 are allowed"),
    ],
)
def test_a_wrong_change_is_refused_before_anything_is_built(monkeypatch, changes, error, message):
    monkeypatch.setattr(build, "measure_expectation", lambda spec: pytest.fail("measured"))
    with pytest.raises(error, match=message):
        new_spec("mine", base="mednext-S", changes=changes)


def test_the_place_is_a_folder_or_a_file_of_the_models_name(tmp_path):
    assert spec_file("mine", output=tmp_path) == tmp_path / "mine.yaml"
    assert spec_file("mine", output=tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    with pytest.raises(OutputError, match=r"other.yaml: a spec's file is called after its model, write .*mine.yaml"):
        spec_file("mine", output=tmp_path / "other.yaml")
    with pytest.raises(OutputError, match=r"none: there is no such folder, make it first"):
        spec_file("mine", output=tmp_path / "none")


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    with pytest.raises(OutputError, match=r"mine.yaml exists and is not overwritten, choose another name or place"):
        spec_file("mine", output=tmp_path)
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match=r"link.yaml exists"):
        spec_file("link", output=tmp_path)


def test_a_failed_write_leaves_nothing_behind(small, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(
        OutputError, match=r"small.yaml: cannot be written \(Permission denied\), give a writable place"
    ):
        write_spec(small, path=tmp_path / "small.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_vanished_folder_cannot_be_written(small, tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written \(No such file or directory\)"):
        write_spec(small, path=tmp_path / "gone" / "small.yaml")


def test_the_first_line_names_the_schema_for_editors(small, tmp_path):
    first = spec_text(small, path=tmp_path / "small.yaml").splitlines()[0]
    home = next(item.folder for item in catalog.catalogs() if item.name == "zoo")
    assert first == f"# yaml-language-server: $schema={(home / 'specs/schema/model.schema.json').resolve()}"


def test_in_a_catalogue_the_schema_is_named_relatively(small, tmp_path):
    (tmp_path / "specs" / "schema").mkdir(parents=True)
    (tmp_path / "specs" / "schema" / "model.schema.json").write_text("{}")
    folder = tmp_path / "specs" / "models" / "mednext"
    folder.mkdir(parents=True)
    first = spec_text(small, path=folder / "small.yaml").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../../schema/model.schema.json"


def test_a_file_that_appeared_while_measuring_is_not_replaced(tmp_path, small):
    path = tmp_path / "small.yaml"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists and is not overwritten"):
        write_spec(small, path=path)
    assert path.read_text() == "mine"
    assert [item.name for item in tmp_path.iterdir()] == ["small.yaml"]
