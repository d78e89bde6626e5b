"""Recording: measured numbers go into the spec files, new releases into the lock, and released ones stay."""

from __future__ import annotations

import json

import pytest
from support.exporting import small_model

from connectomics_zoo import catalog
from connectomics_zoo.authoring import record
from connectomics_zoo.errors import OutputError, SpecError
from connectomics_zoo.export.exported import NotExportableError
from connectomics_zoo.export.formats import FORMATS
from connectomics_zoo.export.networks import torchscript
from connectomics_zoo.files import changes, yaml_blocks
from connectomics_zoo.files.yaml import dump_yaml, parse_yaml, read_yaml
from connectomics_zoo.network.build import measure_expectation
from connectomics_zoo.schema.json_schema import TYPES, schema_text
from connectomics_zoo.specs import releases
from connectomics_zoo.specs.exports import Outcome, read_exports
from connectomics_zoo.specs.listing import read_rows
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.verify import verify

TINY = {"base_channels": 2, "kernel_size": 3, "block_counts": [1] * 9}
STATIC = {"arch": TINY, "expect": None}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "other_zoo"


def recorded(*patterns, relock=False):
    planned = record.plan(patterns, relock=relock)
    changes.write_changes(planned.changes)
    return planned


def released(folder):
    return releases.read_lock(catalog.Catalog("other", "other_zoo", folder))


def test_recording_a_new_spec_measures_it_releases_it_and_makes_verify_pass(add_spec, folder):
    path = add_spec("tiny", STATIC)
    assert not verify(["tiny"], level="schema").passed
    planned = recorded("tiny")
    assert [change.path.name for change in planned.changes] == [
        "tiny.yaml",
        "lock.json",
        *(f"{kind}.schema.json" for kind in tuple(TYPES)),
    ]
    spec = get_spec("tiny")
    assert spec.expect == measure_expectation(spec)
    assert released(folder) == {"tiny@1.0.0": releases.content(spec)}
    assert (folder / "specs" / "schema" / "model.schema.json").read_text() == schema_text("model", home="other")
    assert verify(["tiny"], level="build").passed
    assert record.plan(["tiny"]).changes == ()
    assert path.read_text().count("expect:") == 1


def test_planning_writes_nothing(add_spec, folder):
    path = add_spec("tiny", STATIC)
    before = path.read_text()
    assert len(record.plan(["tiny"]).changes) == 5
    assert path.read_text() == before
    assert [item.name for item in folder.rglob("*") if item.is_file()] == ["tiny.yaml"]


def test_recording_keeps_every_line_but_the_block(add_spec):
    path = add_spec("tiny", STATIC)
    original = path.read_text().replace("expect: null\n", "# above\nexpect: null  # beside\n# below\n\n")
    path.write_text("# first\n" + original.replace("arch:\n", "arch:  # a comment\n"))
    before = path.read_text()
    recorded("tiny")
    text = path.read_text()
    start, end = text.index("expect:"), text.index("# below")
    assert text[:start] + "expect: null  # beside\n" + text[end:] == before


def test_a_released_spec_is_not_changed_in_passing(add_spec, folder):
    path = add_spec("tiny", STATIC)
    recorded("tiny")
    before = released(folder)
    path.write_text(path.read_text().replace("base_channels: 2", "base_channels: 3"))
    text = path.read_text()
    planned = recorded("tiny")
    assert "arch.base_channels would change from 2 to 3: restore it, give the spec a new version" in planned.refused[0]
    assert any("expect.fingerprint would change" in refusal for refusal in planned.refused)
    assert planned.changes == ()
    assert path.read_text() == text
    assert released(folder) == before


def test_relocking_changes_a_released_spec_and_says_so(add_spec, folder):
    path = add_spec("tiny", STATIC)
    recorded("tiny")
    path.write_text(path.read_text().replace("base_channels: 2", "base_channels: 3"))
    planned = recorded("tiny", relock=True)
    reasons = [reason for change in planned.changes for reason in change.reasons]
    assert any(reason.startswith("expect.parameters.training: ") for reason in reasons)
    assert any(reason.startswith("tiny@1.0.0: relocked, sha256:") for reason in reasons)
    assert planned.refused == ()
    assert released(folder)["tiny@1.0.0"]["arch"]["base_channels"] == 3
    assert verify(["tiny"], level="build").passed


def test_a_new_version_is_released_beside_the_old_one(add_spec, folder):
    path = add_spec("tiny", STATIC)
    recorded("tiny")
    path.rename(path.with_name("tiny@1.0.0.yaml"))
    add_spec("tiny", STATIC | {"version": "2.0.0", "arch": TINY | {"grn": True}, "changes": {"2.0.0": "GRN."}})
    recorded("tiny", "tiny@1.0.0")
    assert set(released(folder)) == {"tiny@1.0.0", "tiny@2.0.0"}
    assert get_spec("tiny@1.0.0").arch.grn is False
    assert get_spec("tiny@2.0.0") == get_spec("tiny")
    report = verify(["tiny*"], level="build")
    assert report.passed
    assert [model.source for model in report.models] == ["other:tiny", "other:tiny@1.0.0"]


def test_only_relocking_everything_forgets_a_release_without_a_file(add_spec, folder, monkeypatch):
    add_spec("tiny", STATIC)
    path = add_spec("gone", STATIC)
    recorded("tiny", "gone")
    path.unlink()
    add_spec("tiny", STATIC)
    # The built-in catalogue is left out: measuring it takes its time, and it must not be written to.
    only = [item for item in record.select_specs(()) if item.label.startswith("other:")]
    monkeypatch.setattr(record, "select_specs", lambda patterns: only)
    recorded(relock=False)
    assert set(released(folder)) == {"tiny@1.0.0", "gone@1.0.0"}
    planned = recorded(relock=True)
    assert set(released(folder)) == {"tiny@1.0.0"}
    assert ("gone@1.0.0: forgotten, its file is gone",) in [change.reasons for change in planned.changes]


def test_numbers_within_the_tolerance_of_verify_are_no_news(add_spec):
    path = add_spec("tiny", STATIC)
    recorded("tiny")
    rms = get_spec("tiny").expect.probe.outputs["output"].rms
    recording = path.read_text()
    for factor, news in ((1.0005, []), (1.01, ["expect.probe.outputs.output.rms"])):
        path.write_text(recording.replace(f"rms: {rms}", f"rms: {rms * factor}"))
        planned = record.plan([str(path)], relock=True)
        reasons = [reason for change in planned.changes for reason in change.reasons if reason.startswith("expect")]
        assert [reason.partition(":")[0] for reason in reasons] == news


def test_a_file_of_the_users_gets_its_numbers_and_no_lock(tmp_path, add_spec):
    path = add_spec("tiny", STATIC)
    mine = tmp_path / "tiny.yaml"
    path.rename(mine)
    catalog.entries.cache_clear()
    planned = recorded(str(mine))
    assert [change.path for change in planned.changes] == [mine]
    assert get_spec(mine).expect is not None


def test_a_spec_of_a_model_is_recorded_whatever_its_file_is_called(add_spec, tmp_path):
    mine = add_spec("tiny", STATIC).rename(tmp_path / "spec.yaml")
    catalog.entries.cache_clear()
    assert [change.path for change in recorded(str(mine)).changes] == [mine]


def test_a_run_folder_is_not_recorded(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.yaml").write_text("kind: run\n")
    with pytest.raises(SpecError, match="a run's spec is written by zoo train, record the model's own"):
        record.plan([str(tmp_path / "run")])


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    change = changes.FileChange(blocked / "lock.json", "{}\n", ())
    with pytest.raises(OutputError, match="cannot be written"):
        changes.write_changes([change])
    assert list(tmp_path.iterdir()) == [blocked]


BLOCK = "expect:\n  a: 1\n"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("x: 1\nexpect: null\ny: 2\n", f"x: 1\n{BLOCK}y: 2\n"),
        ("expect:\n  a: 0\n  # inside\n  b:\n    c: 1\n# after\ny: 2\n", f"{BLOCK}# after\ny: 2\n"),
        ("expect:\n  a: 0\n\n  b: 1\n\n\ny: 2\n", f"{BLOCK}\n\ny: 2\n"),
        ("x: {expect: 1}\nexpect: {a: 0,\n  b: 1}\n", f"x: {{expect: 1}}\n{BLOCK}"),
    ],
)
def test_a_block_is_replaced_and_nothing_else(text, result):
    assert yaml_blocks.replace_block(text, "expect", BLOCK) == result


@pytest.mark.parametrize(("text", "count"), [("x: 1\n", 0), ("{expect: null}\n", 0), ("expect: 1\nexpect: 2\n", 2)])
def test_a_block_that_does_not_start_one_line_is_refused(text, count):
    with pytest.raises(SpecError, match=f"'expect' starts {count} lines and must start one"):
        yaml_blocks.replace_block(text, "expect", BLOCK)


@pytest.mark.parametrize("value", [1.0, -0.5, 1e-05, 1.5e-07, 123456.0, 1e16, 0.0])
def test_a_number_reads_back_as_it_was_in_every_dialect_of_yaml(value):
    import yaml

    text = record._number(value)
    assert parse_yaml(text) == value
    assert yaml.safe_load(text) == value
    assert type(yaml.safe_load(text)) is float


def test_the_verb_says_what_it_would_change_and_exits_with_1_in_check_mode(add_spec, run_zoo):
    path = add_spec("tiny", STATIC)
    before = path.read_text()
    code, out, err = run_zoo("record", "tiny", "--check")
    assert code == 1
    assert f"{path}: expect: recorded" in out
    assert "lock.json: tiny@1.0.0: released" in out
    assert err == "zoo: 5 file(s) would change, 0 change(s) refused.\n"
    assert path.read_text() == before
    assert run_zoo("record", "tiny")[0] == 0
    assert path.read_text() != before
    assert run_zoo("record", "tiny", "--check") == (0, "", "zoo: 0 file(s) would change, 0 change(s) refused.\n")


def test_the_verb_exits_with_1_when_it_refuses_and_2_for_wrong_usage(add_spec, run_zoo):
    path = add_spec("tiny", STATIC)
    assert run_zoo("record", "tiny")[0] == 0
    path.write_text(path.read_text().replace("base_channels: 2", "base_channels: 3"))
    code, _, err = run_zoo("record", "tiny")
    assert code == 1
    assert "tiny@1.0.0 is released, and arch.base_channels would change from 2 to 3" in err
    code, _, err = run_zoo("record", "tinny")
    assert code == 2
    assert "unknown model 'tinny': did you mean 'tiny'" in err


def test_the_committed_catalogue_is_recorded(run_zoo):
    code, out, err = run_zoo("record", "mednext-S", "--check")
    assert code == 0, out + err


def test_the_lock_file_is_stable_json(add_spec, folder):
    add_spec("tiny", STATIC)
    recorded("tiny")
    text = (folder / releases.RELEASES_FILE).read_text()
    assert releases.lock_text(released(folder)) == text
    assert list(json.loads(text)["tiny@1.0.0"]) == ["digest", "released"]
    assert read_yaml(folder / "specs" / "models" / "mednext" / "tiny.yaml")["name"] == "tiny"


def test_recording_exports_tries_the_formats_that_were_not_tried_and_the_list_says_how_it_went(
    add_spec, folder, monkeypatch
):
    spec = small_model().model_copy(update={"name": "tiny", "family": "mednext", "weights": {}, "expect": None})
    add_spec("tiny", text=dump_yaml(spec.model_dump(mode="json")))
    for name in set(FORMATS) - {"torchscript"}:
        monkeypatch.delitem(FORMATS, name)

    def refuse(exported, output):
        raise NotExportableError("it cannot be.")

    with monkeypatch.context() as patch:
        patch.setattr(torchscript, "write", refuse)
        changes.write_changes(record.plan(["tiny"], exports=True).changes)
    assert exports_in(folder) == {"torchscript": Outcome(reason="it cannot be.")}
    assert row("tiny").exports == {"torchscript": "no: it cannot be."}
    assert record.plan(["tiny"], exports=True).changes == ()
    changes.write_changes(record.plan(["tiny"], exports=True, relock=True).changes)
    sizes = "2 + n*2, 2 + n*2, 4 + n*2"
    assert exports_in(folder) == {"torchscript": Outcome(sizes=sizes, every_size=True, dynamic=True, any_batch=True)}
    assert row("tiny").exports == {"torchscript": "every size"}


def exports_in(folder):
    return read_exports(catalog.Catalog("other", "other_zoo", folder))["tiny@1.0.0"]


def row(name):
    (found,) = [row for row in read_rows().rows if row.name == name]
    return found
