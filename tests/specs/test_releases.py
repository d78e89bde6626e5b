"""The lock: a released network cannot change under its name, and what changed is named with both values."""

from __future__ import annotations

import json

import pytest
from support.second_catalog import second_catalog

from connectomics_zoo import catalog
from connectomics_zoo.errors import LimitError, SpecError
from connectomics_zoo.files.yaml import read_yaml
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.lookup import get_spec

HOME = next(item for item in catalog.catalogs() if item.name == "zoo")
ENTRIES = [entry for entry in catalog.entries("model") if entry.catalog == HOME]
SPEC = get_spec("mednext-S")
RELEASED = releases.content(SPEC)


def changed(**changes):
    """mednext-S with other top-level fields."""
    document = read_yaml(catalog.find("model", "mednext-S").path) | changes
    return ModelSpec.model_validate(document)


def found(findings):
    return [(item.path, item.declared, item.released) for item in findings]


def test_the_lock_holds_every_spec_of_the_catalogue():
    assert len(ENTRIES) >= 9
    assert set(releases.read_lock(HOME)) == {get_spec(entry.path).reference for entry in ENTRIES}
    assert releases.withdrawn(HOME) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path.stem)
def test_no_spec_of_the_catalogue_differs_from_its_release(entry):
    assert releases.check(get_spec(entry.path), home=HOME) == []


@pytest.mark.parametrize(
    ("changes", "path", "declared", "released"),
    [
        ({"arch": {"base_channels": 48, "kernel_size": 3}}, "arch.base_channels", 48, 32),
        ({"arch": {"kernel_size": 3, "norm": "layer"}}, "arch.norm", "layer", "group"),
        (
            {"training": {"patch_size": [128, 128, 144], "schedule": "constant", "precision": "16-mixed"}},
            "training.patch_size",
            [128, 128, 144],
            [128, 128, 128],
        ),
        ({"expect": None}, "expect", None, RELEASED["expect"]),
    ],
)
def test_a_change_of_what_determines_the_network_is_named_with_both_values(changes, path, declared, released):
    findings = releases.check(changed(**changes), home=HOME)
    assert found(findings) == [(path, declared, released)]
    assert findings[0].note.endswith("was released as mednext-S@1.0.0, restore it or give the spec a new version")


def test_a_change_deep_in_a_list_is_named_by_its_index():
    document = read_yaml(catalog.find("model", "mednext-S").path)
    document["outputs"][2]["loss_weight"] = 0.3
    document["expect"]["probe"]["outputs"]["ds_1"]["rms"] = 1.0
    findings = releases.check(ModelSpec.model_validate(document), home=HOME)
    assert found(findings) == [
        ("outputs[2].loss_weight", 0.3, 0.25),
        ("expect.probe.outputs.ds_1.rms", 1.0, RELEASED["expect"]["probe"]["outputs"]["ds_1"]["rms"]),
    ]


def test_an_output_less_is_one_finding():
    (finding,) = releases.check(changed(outputs=read_yaml(ENTRIES[0].path)["outputs"][:2]), home=HOME)
    assert finding.path == "outputs"
    assert len(finding.released) == 5


def test_prose_and_weights_may_change():
    source = read_yaml(catalog.find("model", "mednext-S").path)["source"]
    entry = {"file": "a.safetensors", "sha256": "0" * 64, "task": "mito", "dataset": "A volume.", "license": "MIT"}
    spec = changed(
        summary="Other words.",
        source=source | {"paper": "Another title"},
        changes={"1.0.0": "Other words."},
        weights={"mito": entry},
    )
    assert releases.check(spec, home=HOME) == []


def test_another_version_is_not_yet_released_and_the_finding_says_how_to_release_it():
    (finding,) = releases.check(changed(version="1.1.0", changes={"1.1.0": "More."}), home=HOME)
    assert finding.path == "version"
    assert finding.note == f"not in {HOME.folder}/specs/lock.json, add it with: zoo record mednext-S@1.1.0"


def test_a_file_of_the_users_is_held_against_the_lock_only_under_a_released_name():
    arch = {"base_channels": 48, "kernel_size": 3}
    assert [item.path for item in releases.check(changed(arch=arch))] == ["arch.base_channels"]
    assert releases.check(changed(arch=arch, name="mine")) == []


def without(released, part, field):
    return released | {part: {key: value for key, value in released[part].items() if key != field}}


@pytest.mark.parametrize(("part", "field"), [("arch", "grn"), ("training", "warmup_steps"), ("expect", "buffers")])
def test_a_field_that_a_type_gained_since_is_no_change_while_it_has_its_default(part, field):
    assert releases.compare_release(SPEC, without(RELEASED, part, field)) == []


@pytest.mark.parametrize(
    ("part", "field", "declared"),
    [("arch", "kernel_size", 3), ("training", "patch_size", [128, 128, 128]), ("expect", "fingerprint", None)],
)
def test_a_field_that_a_type_gained_since_is_a_change_when_it_is_set(part, field, declared):
    declared = declared or RELEASED[part][field]
    assert found(releases.compare_release(SPEC, without(RELEASED, part, field))) == [
        (f"{part}.{field}", declared, None)
    ]


def test_a_changed_default_is_found_although_the_spec_does_not_state_it():
    assert "norm" not in read_yaml(catalog.find("model", "mednext-S").path)["arch"]
    released = RELEASED | {"arch": RELEASED["arch"] | {"norm": "layer"}}
    assert found(releases.compare_release(SPEC, released)) == [("arch.norm", "group", "layer")]


def test_a_field_that_a_type_lost_since_is_a_change():
    released = RELEASED | {"arch": RELEASED["arch"] | {"stem_kernel": 7}}
    assert found(releases.compare_release(SPEC, released)) == [("arch.stem_kernel", None, 7)]


def test_of_a_document_that_is_no_spec_what_one_side_leaves_open_is_no_difference(monkeypatch):
    released = {**RELEASED, "arch": {"norm": None, "base_channels": 32, "kernel_size": 3}}
    monkeypatch.setattr(releases, "find_released", lambda reference, *, home: released)
    arch = {"norm": "layer", "base_channels": None, "kernel_size": 5, "unknown": 1}
    document = {"name": SPEC.name, "version": SPEC.version, "arch": arch}
    assert found(releases.check_released_document(document, home=HOME)) == [("arch.kernel_size", 5, 3)]


def test_the_digest_depends_on_the_content_alone():
    turned = {key: RELEASED[key] for key in reversed(RELEASED)}
    assert releases.digest(turned) == releases.digest(RELEASED)
    assert releases.digest(RELEASED | {"builder": "other"}) != releases.digest(RELEASED)


def home_with(tmp_path, text):
    path = tmp_path / releases.RELEASES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return catalog.Catalog("other", "other_zoo", tmp_path)


def test_a_lock_reads_back_as_it_was_written(tmp_path):
    content = {"b@1.0.0": {"builder": "é", "arch": {"x": [1, 2.5, None]}}, "a@1.0.0": RELEASED}
    text = releases.lock_text(content)
    assert releases.read_lock(home_with(tmp_path, text)) == content
    assert list(json.loads(text)) == ["a@1.0.0", "b@1.0.0"]
    assert releases.read_lock(home_with(tmp_path, releases.lock_text({}))) == {}


def test_a_catalogue_without_a_lock_has_released_nothing(tmp_path):
    assert releases.read_lock(catalog.Catalog("other", "other_zoo", tmp_path)) == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a@1.0.0": 1}', '{"a@1.0.0": {"released": {}}}', "\udcff"])
def test_what_is_no_lock_is_refused(tmp_path, text):
    home = home_with(tmp_path, "")
    (tmp_path / releases.RELEASES_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecError, match=r"lock\.json: not a lock .*, restore it from version control"):
        releases.read_lock(home)


@pytest.mark.parametrize("released", [RELEASED | {"builder": "other"}, [1]])
def test_a_lock_that_was_edited_by_hand_is_refused(tmp_path, released):
    document = {"a@1.0.0": {"digest": releases.digest(RELEASED), "released": released}}
    with pytest.raises(SpecError, match=r"the content of a@1\.0\.0 does not have its digest"):
        releases.read_lock(home_with(tmp_path, json.dumps(document)))


def test_a_lock_over_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "MAX_BYTES", 10)
    with pytest.raises(LimitError, match="larger than the 10 bytes that a lock may have"):
        releases.read_lock(home_with(tmp_path, " " * 11))


def test_a_release_without_a_file_is_withdrawn(tmp_path):
    with second_catalog(tmp_path) as add:
        home = home_with(tmp_path, releases.lock_text({f"mine@{version}": RELEASED for version in ("1.0.0", "1.1.0")}))
        assert releases.withdrawn(home) == ["mine@1.0.0", "mine@1.1.0"]
        add("mine", {"version": "1.1.0", "changes": {"1.1.0": "More."}})
        assert releases.withdrawn(home) == ["mine@1.0.0"]
        add("mine@1.0.0")
        assert releases.withdrawn(home) == []
        add("mine@1.0.0").unlink()
        add("mine", text="{")
        assert releases.withdrawn(home) == []  # which version that file declares is not known
