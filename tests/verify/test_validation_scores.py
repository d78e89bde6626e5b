"""Declared scores: weights beside a spec state those of their objects, and `zoo verify --data` measures all again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from support.tiny_training import TINY, make_run, request, write_volume

from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.decode import decode
from connectomics_zoo.errors import VolumeError, ZooError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.files.yaml import dump_yaml, read_yaml
from connectomics_zoo.predict import predict
from connectomics_zoo.push import PushRequest, ship
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.schema.task import DecodeSpec
from connectomics_zoo.specs.lookup import get_spec
from connectomics_zoo.specs.overrides import merge
from connectomics_zoo.specs.selection import Target
from connectomics_zoo.specs.spec_file import write_spec
from connectomics_zoo.train import train
from connectomics_zoo.verify import validation_scores, verify, weights_level
from connectomics_zoo.verify.validation_scores import validation_object_scores
from connectomics_zoo.verify.weights_level import check_weights

DECODE = {
    "method": "watershed",
    "threshold": 0.3,
    "seed_threshold": 0.4,
    "boundary_threshold": 0.9,
    "min_seed": 1,
    "min_size": 2,
}
"""Not the task's; by it, a network that has hardly been trained has objects."""

OBJECTS = ("val/adapted_rand_error", "val/voi_split", "val/voi_merge", "val/ap_50")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder `data` with a volume, a tuned run for objects in `run`, and the spec of its model."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "data").mkdir()
    write_volume(folder / "data" / "volume.h5")
    changes = request("volume.h5")
    changes["data"] |= {"root": str(folder / "data"), "license": "CC0-1.0", "voxel_size_nm": [50.0, 4.6, 4.6]}
    write_spec(new_spec("tiny", base="mednext-S", changes={"arch": TINY}), path=folder / "tiny.yaml")
    del changes["arch"]
    train(str(folder / "tiny.yaml"), merge(changes, {"task": "mito-instance"}), output=folder / "run", device="cpu")
    tuned = {"schema_version": 1, "kind": "decode", "decode": DECODE, "adapted_rand_error": 0.5, "voi": 1.0}
    places = {"prediction": "predicted.h5:main", "truth": "volume.h5:mito", "region": "z=16:20"}
    (folder / "run" / "decode.yaml").write_text(dump_yaml({**tuned, **places}))
    ship(PushRequest(folder / "run", name="objects"), folder / "tiny.yaml")
    return folder


@pytest.fixture
def shipped(home, tmp_path):
    """A copy of the spec and its weights, which a test may change."""
    for path in home.glob("tiny*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def tiny_spec(tmp_path):
    """The spec of a model without weights."""
    path = tmp_path / "other.yaml"
    write_spec(new_spec("other", base="mednext-S", changes={"arch": TINY}), path=path)
    return path


def declare(path, **scores):
    document = read_yaml(path)
    document["weights"]["objects"]["metrics"] |= scores
    path.write_text(dump_yaml(document))


def test_the_entry_states_the_scores_of_the_objects_that_a_user_gets(home, shipped, tmp_path):
    entry = get_spec(shipped).weights["objects"]
    assert entry.metrics.keys() == {"val/dice", "val/iou", *OBJECTS}
    volume = home / "data" / "volume.h5"
    predict(shipped, f"{volume}:raw", tmp_path / "p.h5", region="z=16:20")
    report = decode(tmp_path / "p.h5", tmp_path / "objects.h5")
    assert {"method": report.method, **report.settings} == DECODE, "the prediction carries the tuned settings"
    scores = evaluate(tmp_path / "objects.h5", f"{volume}:mito", region="z=16:20", relabel=True).scores
    assert scores["objects_predicted"] >= 1
    for name in OBJECTS:
        assert entry.metrics[name] == pytest.approx(scores[name.removeprefix("val/")], abs=1e-5), name


def test_declared_scores_are_measured_again(home, shipped):
    report = verify([str(shipped)], level="weights", data=home / "data")
    assert report.passed, report.models[0].failures
    measured = {check.path: check for check in report.models[0].checks if ".val/" in check.path}
    assert measured.keys() == {f"weights.objects.metrics.{name}" for name in ("val/dice", "val/iou", *OBJECTS)}
    for check in measured.values():
        assert check.measured == pytest.approx(check.declared, abs=0.005)


def test_objects_are_scored_where_the_mask_of_the_run_is(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "data")
    volume = tmp_path / "data" / "volume.h5"
    with h5py.File(volume, "r+") as file:
        file["mask"] = np.ones(file["mito"].shape, np.uint8)
        file["mask"][:, 14:16] = 0  # across the object of the truth, which makes two of it
    run = get_run(home / "run")
    run = run.model_copy(update={"task": run.task.model_copy(update={"decode": DecodeSpec(**DECODE)})})
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "run" / "spec.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_none=True)))
    (pair,) = run.data.validation
    data = {"root": str(tmp_path / "data"), "validation": (pair.model_copy(update={"mask": "volume.h5:mask"}),)}
    masked = run.model_copy(update={"data": run.data.model_copy(update=data)})
    found = validation_object_scores(tmp_path / "run", masked)
    predict(tmp_path / "run", f"{volume}:raw", tmp_path / "p.h5", region="z=16:20", precision="float32")
    assert decode(tmp_path / "p.h5", tmp_path / "objects.h5").objects >= 1
    given = {"region": "z=16:20", "relabel": True}
    scores = evaluate(tmp_path / "objects.h5", f"{volume}:mito", mask=f"{volume}:mask", **given).scores
    assert found == {name: pytest.approx(scores[name.removeprefix("val/")]) for name in OBJECTS}
    assert scores["objects_true"] == 2
    assert found["val/voi_merge"] > evaluate(tmp_path / "objects.h5", f"{volume}:mito", **given).scores["voi_merge"]


@pytest.mark.parametrize("name", ["val/dice", "val/voi_split"])
def test_a_score_that_the_weights_do_not_have_fails(home, shipped, name):
    true = get_spec(shipped).weights["objects"].metrics[name]
    declare(shipped, **{name: true + 0.0051})
    (model,) = verify([str(shipped)], level="weights", data=[home / "data"]).models
    (check,) = model.failures
    assert check.path == f"weights.objects.metrics.{name}"
    assert (check.declared, check.measured) == (true + 0.0051, pytest.approx(true, abs=1e-4))
    assert "may differ by 0.005" in check.describe()


def test_a_score_of_another_kind_is_left_out_and_said(home, shipped, run_zoo):
    declare(shipped, **{"test/nerl": 0.5})
    code, out, err = run_zoo("verify", shipped, "--level", "weights", "--data", home / "data")
    assert code == 0, err
    assert "weights.objects.metrics.val/dice: declared 0." in out
    assert "weights.objects.metrics.test/nerl: not measured again: it is no score of this task" in err


def test_data_that_is_not_at_hand_is_no_proof(home, shipped, tmp_path, run_zoo):
    (tmp_path / "empty").mkdir()
    code, out, err = run_zoo("verify", shipped, "--level", "weights", "--data", tmp_path / "empty")
    assert code == 1
    assert "not measured again: no folder given with --data has volume.h5" in out
    assert "no declared score was measured again, for the reasons above." in err
    code, _, err = run_zoo(
        "verify", shipped, "--level", "weights", "--data", tmp_path / "empty", "--data", home / "data"
    )
    assert code == 0, err


def test_folders_are_looked_at_before_anything_runs(shipped, tmp_path):
    with pytest.raises(VolumeError, match="nowhere: there is no such folder, give the one that holds the volumes"):
        verify([str(shipped)], level="weights", data=tmp_path / "nowhere")
    with pytest.raises(ZooError, match="scores are measured at level weights, and not at forward"):
        verify([str(shipped)], data=tmp_path)


def test_a_run_folder_is_measured_where_its_spec_says(home, tmp_path):
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    (model,) = verify([str(run)], level="weights", data=tmp_path / "empty").models
    assert model.passed, model.failures
    assert {check.path for check in model.checks if ".val/" in check.path} == {
        "metrics.json.val/dice",
        "metrics.json.val/iou",
    }
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "val/dice": metrics["val/dice"] + 0.01}))
    (model,) = verify([str(run)], level="weights", data=tmp_path / "empty").models
    assert [check.path for check in model.failures] == ["metrics.json.val/dice"]


def test_without_data_no_score_is_measured(shipped):
    (model,) = verify([str(shipped)], level="weights").models
    assert model.passed
    assert not any("metrics" in check.path for check in model.checks)


def test_weights_without_their_data_state_the_scores_of_their_training_alone(home, shipped, tmp_path):
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    document = read_yaml(run / "spec.yaml")
    document["data"]["root"] = str(tmp_path / "gone")
    (run / "spec.yaml").write_text(dump_yaml(document))
    report = ship(PushRequest(run, name="other"), shipped)
    assert report.entry["metrics"].keys() == {"val/dice", "val/iou"}
    assert "the scores of objects were not measured: " in " ".join(report.notes)


def test_shipping_again_without_the_data_keeps_the_scores_of_the_objects(home, shipped, tmp_path):
    before = get_spec(shipped).weights["objects"]
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    moved = (home / "data").rename(home / "moved")
    try:
        report = ship(PushRequest(run, name="objects"), shipped)
    finally:
        moved.rename(home / "data")
    assert "the scores of objects were not measured: " in " ".join(report.notes)
    assert get_spec(shipped).weights["objects"] == before


def test_weights_may_be_verified_by_name(home, shipped):
    ship(PushRequest(home / "run", name="second", half=True), shipped)
    for name, tags in (("objects", {"objects"}), (None, {"objects", "second"})):
        checks = check_weights(get_spec(shipped), Target(shipped, None, tag=name))
        assert {check.path.split(".")[1] for check in checks} == tags
    report = verify(["mednext-S.vnc-mito", "mednext-S"], level="schema")
    assert [model.source for model in report.models] == ["zoo:mednext-S.vnc-mito", "zoo:mednext-S"]


def test_weights_that_a_model_does_not_have_are_no_proof(shipped):
    checks = check_weights(get_spec(shipped), Target(shipped, None, tag="nothing"))
    assert [check.ok for check in checks] == [False]
    assert "has no weights 'nothing'" in checks[0].note


def test_a_folder_without_scores_is_not_measured(home, tmp_path):
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    (run / "metrics.json").unlink()
    (model,) = verify([str(run)], level="weights", data=home / "data").models
    assert [check.note for check in model.failures] == [
        "not measured again: no scores (metrics.json) lie beside the weights"
    ]


def test_a_model_without_weights_is_no_proof(home, tiny_spec):
    (model,) = verify([str(tiny_spec)], level="weights", data=home / "data").models
    assert [check.note for check in model.failures] == ["not measured again: no score is declared"]


def test_the_file_that_is_missing_is_named(home, tmp_path):
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    document = read_yaml(run / "spec.yaml")
    document["data"]["validation"][0]["label"] = "labels.h5:mito"
    (run / "spec.yaml").write_text(dump_yaml(document))
    report = verify([str(run)], level="weights", data=home / "data")
    words = "not measured again: no folder given with --data has labels.h5"
    assert [check.note for check in report.models[0].unmeasured] == [words]
    checks = (dataclasses.replace(check, ok=True) for check in report.models[0].checks)
    passed = dataclasses.replace(report, models=(dataclasses.replace(report.models[0], checks=tuple(checks)),))
    assert f'<skipped message="metrics.json: {words}" />' in passed.to_junit()


def test_another_network_in_the_file_than_in_the_spec_fails(home, shipped, monkeypatch):
    run = get_run(home / "run").model_copy(update={"model": get_spec("mednext-B")})
    monkeypatch.setattr(weights_level, "embedded_run", lambda found: run)
    checks = check_weights(get_spec(shipped), Target(shipped, None), [home / "data"])
    assert [check.note for check in checks if not check.ok] == ["the spec in the file is of another network"]


def test_what_is_declared_about_weights_is_shown(run_zoo):
    code, out, err = run_zoo("show", "mednext-S.vnc-mito")
    assert code == 0, err
    assert out.startswith("mednext-S.vnc-mito\n")
    for words in ("val/dice 0.8795", "CC-BY-NC-SA-3.0", "z=0:13", 'zoo.load("mednext-S.vnc-mito")'):
        assert words in out
    assert not run_zoo("show", "mednext-S")[1].startswith("mednext-S.vnc-mito")
    assert "val/dice 0.8795" not in run_zoo("show", "mednext-S.vnc-mito", "arch.kernel_size=5")[1]


def test_objects_are_scored_in_each_annotated_region(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "v.h5")
    pair = {"image": f"{path}:raw", "label": f"{path}:mito", "region": {"y": [0, 32]}}
    regions = [{"z": [2, 3]}, {"z": [9, 12], "x": [0, 8]}]
    run = make_run({"validation": [{**pair, "regions": regions}]}, task="mito-instance")
    scored = []

    def evaluate(*_, region, **__):
        scored.append(region.model_dump(exclude_none=True))
        return SimpleNamespace(scores=dict.fromkeys(validation_scores.OBJECT_SCORES, float(len(scored))))

    monkeypatch.setattr(validation_scores, "predict", lambda *_, **__: None)
    monkeypatch.setattr(validation_scores, "decode", lambda *_, **__: None)
    monkeypatch.setattr(validation_scores, "evaluate", evaluate)
    scores = validation_scores.validation_object_scores(tmp_path, run)
    assert scored == [{"y": (0, 32), "z": (2, 3)}, {"y": (0, 32), "z": (9, 12), "x": (0, 8)}]
    assert set(scores.values()) == {1.5}
