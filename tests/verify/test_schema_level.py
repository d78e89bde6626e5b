"""Level schema: files, names and versions, and the lock of a catalogue."""

from __future__ import annotations

import pytest
from support.tiny_spec import TINY, failures, release

from connectomics_zoo import catalog
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.specs import releases
from connectomics_zoo.verify import verify


@pytest.mark.parametrize(
    ("text", "path", "note"),
    [
        ("a: 1\na: 2\n", "file", "the key 'a' stands twice"),
        ("#" * 300_000, "file", "larger than the 262144 bytes that a spec may have"),
        (dump_yaml(TINY | {"schema_version": 2}), "schema_version", "Input should be 1"),
        (dump_yaml(TINY | {"builder": "nonsense"}), "builder", "JSON Schema: 'nonsense' is not one of"),
        (dump_yaml(TINY | {"arch": {"kernel_size": 3, "wide": 1}}), "arch.wide", "unknown key"),
    ],
)
def test_a_file_that_is_no_spec_fails_and_says_why(tmp_path, text, path, note):
    file = tmp_path / "tiny.yaml"
    file.write_text(text)
    report = verify([str(file)], level="build")
    assert not report.passed
    assert note in failures(report)[path].note
    assert report.models[0].name == str(file)


@pytest.mark.parametrize(
    ("stem", "changes", "path", "declared", "measured"),
    [
        ("mine", {"name": "yours"}, "name", "yours", "mine"),
        ("mine", {"family": "unet"}, "family", "unet", "mednext"),
        ("mine@2.0.0", {}, "version", "1.0.0", "2.0.0"),
    ],
)
def test_a_file_in_a_catalogue_is_called_and_placed_as_its_spec_says(
    add_spec, tmp_path, stem, changes, path, declared, measured
):
    found = failures(verify([str(add_spec(stem, changes))], level="schema"))[path]
    assert (found.declared, found.measured) == (declared, measured)


def test_two_files_of_one_version_fail(add_spec, tmp_path):
    add_spec("mine")
    add_spec("mine@1.0.0")
    release(tmp_path, "other:mine")
    found = failures(verify(["other:mine"], level="schema"))
    assert found["version"].note == "mine@1.0.0.yaml has the same version, remove it"


def test_a_spec_of_a_catalogue_must_be_in_its_lock_and_measured(add_spec):
    found = failures(verify([str(add_spec("mine", {"expect": None}))], level="schema"))
    assert found["version"].note.endswith("specs/lock.json, add it with: zoo record mine@1.0.0")
    assert found["expect"].note == "was not measured, record it with: zoo record mine@1.0.0"


@pytest.mark.parametrize("part", ["flops", "probe"])
def test_a_spec_of_a_catalogue_must_have_every_measurement(add_spec, part):
    expect = {
        key: value for key, value in read_yaml(catalog.find("model", "mednext-S").path)["expect"].items() if key != part
    }
    found = failures(verify([str(add_spec("mine", {"expect": expect}))], level="schema"))
    assert found[f"expect.{part}"].note == "was not measured, record it with: zoo record mine@1.0.0"


def test_a_file_of_the_users_may_be_unmeasured_and_is_in_no_lock(tiny):
    assert verify([tiny(expect=None)], level="build").passed


def test_a_release_whose_file_is_gone_fails(add_spec, tmp_path):
    path = add_spec("mine", {"version": "2.0.0", "changes": {"1.0.0": "First.", "2.0.0": "Second."}})
    old = add_spec("mine@1.0.0")
    release(tmp_path, "mine@1.0.0", "mine@2.0.0")
    assert verify(["mine"], level="schema").passed
    assert verify(["other:mine*"], level="schema").passed
    old.unlink()
    catalog.entries.cache_clear()
    report = verify([str(path)], level="schema")
    assert [model.passed for model in report.models] == [True, False]
    assert report.models[1].source == "other:mine@1.0.0"
    assert report.models[1].checks[0].note == "was released and has no file any more, put it back as mine@1.0.0.yaml"


def test_a_damaged_lock_fails_its_specs_and_no_others(add_spec, tmp_path):
    add_spec("mine")
    (tmp_path / "other_zoo" / releases.RELEASES_FILE).write_text("{")
    report = verify(["other:mine", "mednext-B"], level="schema")
    assert {model.source: model.passed for model in report.models} == {"other:mine": False, "zoo:mednext-B": True}
    assert "not a lock" in report.models[1].failures[0].note
