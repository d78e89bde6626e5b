"""Scores of objects on disk: those in the background are false, and what is no object is told or relabelled."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from support.object_volumes import write_prediction

from connectomics_zoo.cli import evaluate as evaluate_cli
from connectomics_zoo.decode import decode
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import blocks, evaluate
from connectomics_zoo.specs.lookup import get_task


def write(folder, **arrays):
    """Write each array to a file of its name, and return their locations."""
    for name, array in arrays.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["main"] = array
    return [f"{folder / name}.h5:main" for name in arrays]


# Background -------------------------------------------------------------------------------------------------------

TRUTH = np.zeros((2, 4, 20), dtype=np.uint16)
TRUTH[..., 1:5] = 11
TRUTH[..., 8:12] = 12
FOUND = TRUTH.copy()
FOUND[..., 5] = 11  # one voxel too far
FOUND[..., 15:18] = 13  # in the background


def test_an_object_in_the_background_is_false_though_rand_error_leaves_the_background_out(tmp_path):
    report = evaluate(*write(tmp_path, found=FOUND, truth=TRUTH))
    assert report.scores["adapted_rand_error"] == report.scores["voi"] == 0
    assert [report.scores[f"objects_{name}"] for name in ("matched_50", "predicted", "true")] == [2, 3, 2]
    assert report.scores["ap_50"] == pytest.approx(2 / 3)
    assert report.scores["segmentation_quality"] == pytest.approx((4 / 5 + 1) / 2)
    assert (report.voxels, report.ignored_voxels) == ((TRUTH > 0).sum(), (TRUTH == 0).sum())


def test_a_label_that_is_ignored_counts_for_no_score(tmp_path):
    report = evaluate(*write(tmp_path, found=FOUND, truth=TRUTH), kind="instances", ignore_labels=[0])
    assert report.scores["ap_50"] == report.scores["segmentation_quality"] == 1
    assert report.scores["objects_predicted"] == 2
    report = evaluate(*write(tmp_path, found=FOUND, truth=TRUTH), kind="instances", ignore_labels=[12])
    assert [report.scores[f"objects_{name}"] for name in ("matched_50", "predicted", "true")] == [1, 2, 1]
    assert report.scores["adapted_rand_error"] > 0
    assert report.ignored_voxels == (TRUTH == 12).sum()


# A mask where objects are meant -----------------------------------------------------------------------------------


def test_a_mask_scored_as_objects_gets_a_warning_that_says_to_label_it(tmp_path, caplog):
    found, truth = write(tmp_path, found=FOUND > 0, truth=TRUTH)
    assert evaluate(found, truth, kind="instances").scores["objects_predicted"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{found}: has a single label, 1, and so a single object; if it is a mask, label its objects first."
    ]
    caplog.clear()
    evaluate(truth, found, kind="instances")
    assert found in caplog.text
    caplog.clear()
    evaluate(truth, truth)
    assert caplog.text == ""
    evaluate(found, truth)
    assert [record.getMessage() for record in caplog.records] == [
        f"{truth}: holds 2 labels, and all above 0 count as foreground."
    ]


def test_the_table_names_the_scores_of_objects(tmp_path):
    result = CliRunner().invoke(evaluate_cli.command, write(tmp_path, found=FOUND, truth=TRUTH))
    assert result.exit_code == 0, result.output
    rows = [re.split(r"\s{2,}", line.strip())[:2] for line in result.stdout.splitlines()]
    assert ["AP at IoU 0.5", "0.6667"] in rows
    assert ["panoptic quality", "0.7200"] in rows
    assert ["objects predicted", "3"] in rows
    assert ["CREMI score", "0.0000"] in rows


# What `zoo decode` writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.h5", "out.tif", "out.zarr"])
@pytest.mark.parametrize("objects", [0, 1, 2])
def test_decoded_objects_are_scored_as_objects_however_few_they_are(tmp_path, caplog, name, objects):
    values = np.zeros((1, 2, 4, 20), dtype=np.float32)
    values[0, ..., 1:5], values[0, ..., 8:12] = (objects > 0) * 0.9, (objects > 1) * 0.9
    path = write_prediction(tmp_path / "p.h5", values, get_task("mito"))
    assert decode(path, tmp_path / name, method="components", overrides={"min_size": 0}).objects == objects
    _, truth = write(tmp_path, found=FOUND, truth=TRUTH)
    report = evaluate(tmp_path / name, truth)
    assert (report.kind, report.read_as) == ("instances", "objects, one for each label, as the file says")
    assert report.scores["objects_predicted"] == report.scores["objects_matched_50"] == objects
    assert caplog.text == "", "a single object is no mask, where the file says that it is an object"
    foreground = evaluate(tmp_path / name, truth, kind="semantic")
    assert (foreground.kind, foreground.read_as) == ("semantic", "objects, as the file says, foreground above 0")
    assert foreground.scores["recall"] == objects / 2
    with pytest.raises(VolumeError, match="holds objects, as the file says, and a threshold is for probabilities"):
        evaluate(tmp_path / name, truth, threshold=0.5)


@pytest.mark.parametrize(
    ("task", "words"),
    [("affinities-3", r"make objects of them \(zoo decode\)"), ("binary", r"predict labels \(--output label\)")],
)
def test_channels_that_cannot_be_scored_are_refused_with_the_way_to_labels(tmp_path, task, words):
    spec = get_task(task)
    path = write_prediction(tmp_path / "p.h5", np.zeros((len(spec.channels), 2, 4, 20), dtype=np.float32), spec)
    _, truth = write(tmp_path, found=FOUND, truth=TRUTH)
    with pytest.raises(VolumeError, match=rf"channels, and one is scored: save that channel alone, or {words}\."):
        evaluate(path, truth)


# A truth without objects of its own ---------------------------------------------------------------------------------


def test_the_components_of_a_mask_are_its_objects_where_asked_for(tmp_path):
    truth = np.zeros((3, 8, 8), np.uint8)
    truth[:, 1:3, 1:3] = truth[:, 5:7, 5:7] = 1
    prediction = np.zeros((3, 8, 8), np.uint8)
    prediction[:, 1:3, 1:3], prediction[:, 5:7, 5:7] = 7, 8
    found, mask = write(tmp_path, prediction=prediction, truth=truth)
    assert evaluate(found, mask, kind="instances").scores["adapted_rand_error"] > 0.1
    report = evaluate(found, mask, relabel=True, region="z=1:3")
    assert report.kind == "instances"
    assert report.scores["objects_true"] == 2
    assert (report.scores["adapted_rand_error"], report.scores["ap_75"]) == (0, 1)


def test_labels_that_touch_stay_apart_when_relabelled(tmp_path):
    truth = np.array([[[1, 1, 2, 2, 0, 1]]], np.uint8)
    found, true = write(tmp_path, prediction=np.array([[[1, 1, 2, 2, 0, 3]]], np.uint8), truth=truth)
    assert evaluate(found, true, relabel=True).scores["ap_75"] == 1


def test_components_of_the_truth_are_whole_over_blocks(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 255], (7, 11, 12), p=[0.5, 0.3, 0.15, 0.05]).astype(np.uint8)
    truth[3, 5] = truth[:, 5, 6] = 1
    found, true, mask = write(tmp_path, prediction=truth + 1, truth=truth, mask=random.random(truth.shape) < 0.9)
    options = {"relabel": True, "mask": mask, "unlabelled": 255, "region": "z=1:7,y=0:11,x=1:12"}
    whole = evaluate(found, true, **options)
    monkeypatch.setattr(blocks, "BLOCK", (2, 3, 5))
    assert evaluate(found, true, **options).scores == pytest.approx(whole.scores)
    assert whole.scores["objects_true"] > 50


@pytest.mark.parametrize("options", [{"kind": "semantic"}, {"threshold": 0.5}])
def test_relabelling_is_for_objects(tmp_path, options):
    found, true = write(tmp_path, prediction=np.ones((1, 2, 2), np.uint8), truth=np.ones((1, 2, 2), np.uint8))
    with pytest.raises(SpecError, match="relabel makes objects of the truth"):
        evaluate(found, true, relabel=True, **options)


def test_what_is_not_annotated_counts_for_no_score_and_the_background_as_ever(tmp_path):
    truth = np.zeros((1, 4, 12), np.uint8)
    truth[:, :, 0:2], truth[:, :, 4:6], truth[:, :, 10:] = 1, 2, 255
    prediction = truth.copy()
    prediction[:, :, 8] = 9  # false, in the background
    prediction[:, :, 10] = 7  # where nobody knows
    found, true = write(tmp_path, prediction=prediction, truth=truth)
    scores = evaluate(found, true, kind="instances", unlabelled=255).scores
    assert (scores["objects_predicted"], scores["objects_true"]) == (3, 2)
    assert scores["ap_50"] == pytest.approx(2 / 3)
    assert scores["adapted_rand_error"] == pytest.approx(0)


@pytest.mark.parametrize("options", [{"unlabelled": 255}, {"unlabelled": 2}, {"ignore_labels": [0, 255]}])
def test_ignored_labels_are_those_of_the_mask_and_not_of_its_components(tmp_path, options):
    truth = np.zeros((1, 4, 12), np.uint8)
    truth[:, :, 0:2] = truth[:, :, 4:6] = truth[:, :, 8:9] = 1
    truth[:, :, 11] = options.get("unlabelled", 255)
    prediction = np.zeros((1, 4, 12), np.uint8)
    prediction[:, :, 0:2], prediction[:, :, 4:6], prediction[:, :, 8:9] = 1, 2, 3
    found, mask = write(tmp_path, prediction=prediction, truth=truth)
    scores = evaluate(found, mask, relabel=True, **options).scores
    assert (scores["objects_true"], scores["ap_75"], scores["adapted_rand_error"]) == (3, 1, pytest.approx(0))


def test_the_command_takes_what_is_not_annotated(tmp_path):
    truth = np.array([[[1, 1, 0, 5]]], np.uint8)
    found, true = write(tmp_path, prediction=np.array([[[1, 1, 0, 1]]], np.uint8), truth=truth)
    arguments = [found, true, "--relabel", "--unlabelled", "5", "--json"]
    result = CliRunner().invoke(evaluate_cli.command, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["scores"]["objects_true"] == 1
