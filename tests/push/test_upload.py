"""Pushing to the Hub: the real client against the server of `hub_server`, and back again with `load` and `predict`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import textwrap

import h5py
import pytest
import torch
import yaml
from huggingface_hub import constants

from connectomics_zoo.errors import HubError, OutputError, SpecError, WeightsError
from connectomics_zoo.push import PushRequest, push
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.load import load

pytestmark = pytest.mark.usefixtures("hub_env")

REPO = "org/tiny"


@pytest.fixture(autouse=True)
def unverified(monkeypatch):
    """Let a push not verify the run first, which takes half of its time and is tested beside `preview`."""
    monkeypatch.setattr("connectomics_zoo.push.package.require_verified", lambda *_, **__: None)


def pushed(run, repo=REPO, *, notify=lambda message: None, half=False, pictures=False, **options):
    """Push, by default without pictures, whose drawing takes most of the time."""
    return push(PushRequest(run, half=half), repo, notify=notify, pictures=pictures, **options)


def same_weights(first, second):
    values = second.state_dict()
    return all(torch.equal(tensor, values[key]) for key, tensor in first.state_dict().items())


def test_what_is_pushed_loads_by_its_reference(run, hub_server):
    told: list[str] = []
    report = pushed(run, notify=told.append, pictures=True)
    repo = hub_server.repos[REPO]
    assert (report.commits, report.private, repo.private) == (2, False, False)
    assert report.reference == f"hf://{REPO}@{report.revision}"
    assert set(report.files) == set(repo.head.files) - {".gitattributes"}
    assert repo.find(report.revision).files["model.safetensors"] == repo.head.files["model.safetensors"]
    assert same_weights(load(run), load(report.reference))
    assert any("is public, everybody can read it" in line and "prediction.png shows your data" in line for line in told)


def test_the_card_names_the_commit_and_its_code_works_when_pasted(
    run, hub_server, home, tmp_path, run_zoo, monkeypatch
):
    report = pushed(run, pictures=True)
    card = hub_server.repos[REPO].head.files["README.md"].decode()
    assert report.reference in card
    assert "REVISION" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    namespace: dict[str, object] = {}
    exec(textwrap.dedent(code), namespace)
    assert namespace["probabilities"].shape == namespace["volume"].shape
    (line,) = re.findall(r"^\$ zoo (predict .*)$", card, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    shutil.copy(home / "volume.h5", tmp_path / "volume.h5")
    assert run_zoo(*line.split())[0] == 0
    with h5py.File("prediction.h5") as made, h5py.File("volume.h5") as volume:
        (dataset,) = made.values()
        assert dataset.shape == volume["raw"].shape


@pytest.mark.parametrize("tuned", [False, True])
def test_the_commands_of_the_card_make_objects(run, hub_server, home, tmp_path, run_zoo, monkeypatch, tuned):
    document = yaml.safe_load((run / "spec.yaml").read_text())
    document["task"]["decode"] = {"method": "components", "threshold": 0.5, "min_size": 1}
    (run / "spec.yaml").write_text(yaml.safe_dump(document))
    if tuned:
        (run / "decode.yaml").write_text(TUNED)
    pushed(run)
    card = hub_server.repos[REPO].head.files["README.md"].decode()
    monkeypatch.chdir(tmp_path)
    shutil.copy(home / "volume.h5", tmp_path / "volume.h5")
    predict, decode = re.findall(r"^\$ zoo (.*)$", card, re.MULTILINE)
    assert run_zoo(*shlex.split(predict))[0] == 0
    code, out, err = run_zoo(*shlex.split(decode))
    assert code == 0, err
    assert ("(threshold=0.001 min_size=0)" if tuned else "(threshold=0.5 min_size=1)") in out
    assert (tmp_path / "objects.h5").is_file()


TUNED = (
    "schema_version: 1\nkind: decode\ndecode: {method: components, threshold: 0.001, min_size: 0}\n"
    "adapted_rand_error: 0.1\nvoi: 1.0\nprediction: predicted.h5:main\ntruth: truth.h5:main\n"
)


def test_tuned_settings_are_part_of_what_a_repository_holds(run, hub_server):
    (run / "decode.yaml").write_text(TUNED)
    first = pushed(run)
    assert "decode.yaml" in hub_server.repos[REPO].head.files
    assert pushed(run).commits == 0
    (run / "decode.yaml").write_text(TUNED.replace("0.001", "0.002"))
    second = pushed(run)
    assert second.revision != first.revision
    assert b"0.002" in hub_server.repos[REPO].head.files["decode.yaml"]
    (run / "decode.yaml").unlink()
    assert pushed(run).revision != second.revision
    assert "decode.yaml" not in hub_server.repos[REPO].head.files


def test_pushing_again_commits_nothing(run, hub_server):
    first = pushed(run)
    files = dict(hub_server.repos[REPO].head.files)
    second = pushed(run)
    assert (second.commits, second.revision) == (0, first.revision)
    assert hub_server.repos[REPO].head.files == files
    assert second.entry == first.entry


def test_other_weights_are_a_new_commit_and_the_old_one_stays(run, hub_server):
    first, second = pushed(run), pushed(run, half=True)
    assert second.revision != first.revision
    assert second.reference in hub_server.repos[REPO].head.files["README.md"].decode()
    assert same_weights(load(run), load(first.reference))
    assert not same_weights(load(run), load(second.reference))


def test_pictures_of_an_earlier_push_are_taken_away(run, hub_server):
    pushed(run, pictures=True)
    assert {"prediction.png", "curve.png"} <= set(hub_server.repos[REPO].head.files)
    pushed(run)
    assert not [name for name in hub_server.repos[REPO].head.files if name.endswith(".png")]


def test_a_tag_is_that_of_the_weights_and_is_not_moved(run, hub_server):
    report = pushed(run, tag="v1")
    assert hub_server.repos[REPO].tags == {"v1": report.revision}
    assert pushed(run, tag="v1").revision == report.revision
    commits = len(hub_server.repos[REPO].commits)
    with pytest.raises(HubError, match=r"has the tag 'v1' already .*, and tags are not moved"):
        pushed(run, half=True, tag="v1")
    assert len(hub_server.repos[REPO].commits) == commits


def test_a_private_repository_is_closed_before_anything_is_uploaded(run, hub_server, monkeypatch):
    report = pushed(run, private=True)
    assert report.private
    assert hub_server.repos[REPO].private
    (create,) = (i for i, asked in enumerate(hub_server.requests) if asked.path == "/api/repos/create")
    assert not [asked for asked in hub_server.requests[:create] if "/lfs" in asked.path or "/commit/" in asked.path]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-empty")
    with pytest.raises(HubError, match="private and your token does not open it"):
        load(report.reference)


def test_a_public_repository_is_not_taken_for_a_private_one(run, hub_server):
    hub_server.add_repo(REPO, {".gitattributes": b""})
    with pytest.raises(HubError, match="is public, and --private was asked for"):
        pushed(run, private=True)
    assert len(hub_server.repos[REPO].commits) == 1


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "a push needs a token and there is none: log in"),
        ("hf_reader", "your token is not allowed to do this: use one with the right to it"),
        ("hf_wrong", "private and your token does not open it|the token is not valid: log in again"),
    ],
)
def test_a_token_that_may_not_write_changes_nothing(run, hub_server, monkeypatch, token, message):
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=message) as caught:
        pushed(run)
    assert "\n" not in str(caught.value)
    assert hub_server.repos == {}


def test_offline_a_push_is_refused(run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"a push needs the Hub, and HF_HUB_OFFLINE=1 forbids it"):
        pushed(run)


def test_a_repository_of_something_else_is_left_as_it_is(run, hub_server):
    hub_server.add_repo(REPO, {"thesis.tex": b"mine", "README.md": b"# Thesis"})
    with pytest.raises(HubError, match=r"holds something that zoo push did not make \(thesis\.tex\)"):
        pushed(run)
    assert set(hub_server.repos[REPO].head.files) == {"thesis.tex", "README.md"}


def test_a_repository_of_another_model_is_left_as_it_is(run, hub_server):
    pushed(run)
    document = yaml.safe_load((run / "spec.yaml").read_text())
    document["model"]["name"] = "other"
    (run / "spec.yaml").write_text(yaml.safe_dump(document))
    commits = len(hub_server.repos[REPO].commits)
    with pytest.raises(HubError, match="holds the model tiny, not other"):
        pushed(run)
    assert len(hub_server.repos[REPO].commits) == commits


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(run, hub_server):
    pushed(run)
    theirs = {**hub_server.repos[REPO].head.files, "notes.md": b"theirs"}

    def meanwhile(message):
        if "what it gets" in message:
            hub_server.add_repo(REPO, theirs)

    with pytest.raises(HubError, match="somebody changed the repository at the same time: look at it, and try again"):
        pushed(run, half=True, notify=meanwhile)
    assert hub_server.repos[REPO].head.files == theirs


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 500}, {"drop_after": 0}], ids=str)
@pytest.mark.parametrize("where", ["PUT /lfs/", "POST /api/models/.*/commit/", "POST /api/models/.*/preupload/"])
def test_an_upload_that_fails_is_one_sentence_and_can_be_done_again(run, hub_server, where, fault):
    hub_server.fail(where, times=100, **fault)
    with pytest.raises(HubError, match=f"^hf://{REPO}: ") as caught:
        pushed(run)
    assert "\n" not in str(caught.value)
    answer_lost = "commit" in where and fault == {"drop_after": 0}
    assert ("model.safetensors" in hub_server.repos[REPO].head.files) == answer_lost
    hub_server.faults.clear()
    assert same_weights(load(run), load(pushed(run).reference))


def test_what_arrives_damaged_is_found(run, hub_server):
    hub_server.fail("POST /api/models/.*/commit/", flip=True)
    with pytest.raises(HubError, match="does not hold the weights that were pushed: do not use that commit"):
        pushed(run)


def test_large_files_go_up_in_parts(run, hub_server):
    hub_server.part_size = 20_000
    report = pushed(run)
    assert hub_server.count("PUT /lfs/[0-9a-f]{64}/[0-9]+$") >= 2
    assert same_weights(load(run), load(report.reference))


def test_the_entry_goes_into_the_spec_and_loads_by_tag(run, spec_file):
    report = pushed(run, spec=spec_file)
    entry = get_spec(spec_file).weights[report.tag]
    assert (entry.source, entry.repo, entry.revision) == ("hub", REPO, report.revision)
    assert same_weights(load(run), load(str(spec_file), pretrained=report.tag))
    assert verify([str(spec_file)], level="weights").passed
    before = spec_file.read_bytes()
    pushed(run, spec=spec_file)
    assert spec_file.read_bytes() == before


def test_a_spec_that_would_not_take_the_entry_is_found_before_the_upload(run, spec_file, hub_server):
    pushed(run, spec=spec_file)
    asked = len(hub_server.repos[REPO].commits)
    with pytest.raises(WeightsError, match="has weights 'mito' already, and they are others"):
        pushed(run, half=True, spec=spec_file)
    spec_file.write_text(spec_file.read_text().replace("name: tiny", "name: small", 1))
    with pytest.raises(SpecError, match="its name differs"):
        pushed(run, spec=spec_file)
    assert len(hub_server.repos[REPO].commits) == asked


@pytest.mark.parametrize("style", ["json", "quoted"])
def test_a_spec_of_another_style_is_found_before_the_upload(run, spec_file, hub_server, style):
    if style == "json":
        spec_file.write_text(json.dumps(get_spec(spec_file).model_dump(mode="json")))
    else:
        spec_file.write_text(spec_file.read_text().replace("\nsource:", '\n"weights": {}\nsource:'))
    with pytest.raises(SpecError):
        pushed(run, spec=spec_file)
    assert REPO not in hub_server.repos


def test_a_spec_that_cannot_be_written_afterwards_loses_nothing(run, spec_file, monkeypatch, hub_server):
    def full(*_):
        raise OutputError("the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("connectomics_zoo.push.entry.write_changes", full)
        with pytest.raises(OutputError, match=rf"the disk is full\. What was pushed is hf://{REPO}@[0-9a-f]{{40}}"):
            pushed(run, spec=spec_file)
    report = pushed(run, spec=spec_file)
    assert report.commits == 0
    assert get_spec(spec_file).weights[report.tag].revision == report.revision


@pytest.mark.parametrize("tag", ["bad tag", "", "main", "a" * 40, "v1/x", "-x", "v1..2", "v1.", "x" * 200])
def test_a_tag_that_can_be_none_is_found_before_the_upload(run, hub_server, tag):
    with pytest.raises(HubError, match="can be no tag, write letters"):
        pushed(run, tag=tag)
    assert hub_server.requests == []


# The command.


def test_the_command_prints_the_entry_and_the_reference(run, hub_server, run_zoo):
    code, out, err = run_zoo("push", run, REPO, "--tag", "v1", "--no-pictures")
    assert code == 0, err
    ((tag, entry),) = yaml.safe_load(out)["weights"].items()
    digest = hashlib.sha256(hub_server.repos[REPO].head.files["model.safetensors"]).hexdigest()
    assert tag == "mito"
    assert entry["revision"] == hub_server.repos[REPO].tags["v1"]
    assert entry["sha256"] == digest
    assert out.splitlines()[-1] == f"# hf://{REPO}@{entry['revision']}"
    code, out, err = run_zoo("push", run, REPO, "--no-pictures", "--json")
    assert "nothing was committed" in err
    assert json.loads(out)["entry"] == entry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["org/name", "--dry-run", "--tag", "v1"], "--tag has no effect with --dry-run"),
        (["org/name", "--output", "x"], "--output is the folder of --dry-run"),
        (["spec.yaml", "--private"], "--private is for repositories, and the target is a spec file"),
        (["name"], "'name' is no repository, write org/name"),
    ],
)
def test_what_does_not_go_together_is_refused(run, run_zoo, hub_server, options, message):
    code, out, err = run_zoo("push", run, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert hub_server.requests == []
