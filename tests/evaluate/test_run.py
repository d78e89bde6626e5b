"""Scores: equal to scikit-image and to counting by hand, block by block, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from skimage.metrics import adapted_rand_error, variation_of_information
from support.paths import SHARED

from connectomics_zoo.cli import evaluate as evaluate_cli
from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.evaluate import blocks, evaluate
from connectomics_zoo.scores import contingency
from connectomics_zoo.scores.contingency import count_pairs, merge_pairs
from connectomics_zoo.scores.scores import object_scores, partition_scores
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.targets.labels import connected_objects
from connectomics_zoo.volumes import create_volume
from connectomics_zoo.volumes.prediction import StoredPrediction

FIB25 = SHARED / "data/fib25/fib25_sample2_z000-199.h5"


def save(path: Path, array: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        file["main"] = array
    return f"{path}:main"


@pytest.fixture
def pair(tmp_path):
    """Write a prediction and a truth and return their locations."""

    def write(prediction, truth):
        return save(tmp_path / "prediction.h5", prediction), save(tmp_path / "truth.h5", truth)

    return write


def objects(seed, shape=(20, 30, 40), labels=30):
    """Random label volume with runs along x, as objects have."""
    small = np.random.default_rng(seed).integers(0, labels, (shape[0], shape[1], shape[2] // 5))
    return small.repeat(5, axis=2)


# Against scikit-image ---------------------------------------------------------------------------------------------

small_labels = npst.arrays(np.int64, (3, 4, 5), elements=st.integers(0, 4))


@given(prediction=small_labels, truth=small_labels, ignore=st.sampled_from([(), (0,), (0, 3)]))
@settings(max_examples=150, deadline=None)
def test_partition_scores_equal_scikit_image(prediction, truth, ignore):
    if np.isin(truth, ignore).all():
        return
    table = count_pairs(prediction, truth)
    found = partition_scores(table.select(~np.isin(table.truth, ignore)))
    split, merge = variation_of_information(truth, prediction, ignore_labels=ignore)
    assert found["voi_split"] == pytest.approx(split, abs=1e-9)
    assert found["voi_merge"] == pytest.approx(merge, abs=1e-9)
    assert found["voi"] == pytest.approx(split + merge, abs=1e-9)
    with np.errstate(invalid="ignore"):
        # scikit-image divides by the pairs of the truth where it says precision, and the other way round.
        error, recall, precision = adapted_rand_error(truth, prediction, ignore_labels=ignore)
    if np.isfinite(error):
        assert found["adapted_rand_error"] == pytest.approx(error, abs=1e-12)
    if np.isfinite(precision) and np.isfinite(recall):
        assert found["rand_precision"] == pytest.approx(precision)
        assert found["rand_recall"] == pytest.approx(recall)


def test_a_merge_lowers_precision_and_a_split_lowers_recall():
    two = np.repeat([1, 2], 50)
    one = np.ones(100, dtype=int)
    merged, split = partition_scores(count_pairs(one, two)), partition_scores(count_pairs(two, one))
    assert (merged["rand_recall"], split["rand_precision"]) == (1, 1)
    assert merged["rand_precision"] == split["rand_recall"] == pytest.approx(49 / 99)
    assert (merged["voi_split"], merged["voi_merge"]) == (0, 1)
    assert (split["voi_split"], split["voi_merge"]) == (1, 0)


@pytest.mark.skipif(not FIB25.is_file(), reason="the FIB-25 sample is not in ../shared/data")
@pytest.mark.parametrize(
    ("region", "error", "split", "merge"), [(None, 0.2733, 2.333, 0.310), ("z=160:200", 0.2216, 1.667, 0.239)]
)
def test_fib25_supervoxels_score_what_the_sample_states(region, error, split, merge):
    report = evaluate(f"{FIB25}:supervoxels", f"{FIB25}:neurons", region=region)
    assert report.kind == "instances"
    assert report.scores["adapted_rand_error"] == pytest.approx(error, abs=5e-5)
    assert report.scores["voi_split"] == pytest.approx(split, abs=5e-4)
    assert report.scores["voi_merge"] == pytest.approx(merge, abs=5e-4)


# Block by block ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint16), (np.uint64, np.int64), (np.int32, np.uint32), (bool, bool)])
@pytest.mark.parametrize("limit", [10, 4_000_000])
def test_blocks_count_as_the_whole_does(pair, monkeypatch, dtypes, limit):
    monkeypatch.setattr(blocks, "BLOCK", (7, 11, 13))
    monkeypatch.setattr(contingency, "MERGE_ABOVE", limit)
    prediction, truth = objects(1).astype(dtypes[0]), objects(2).astype(dtypes[1])
    report = evaluate(*pair(prediction, truth), kind="instances", ignore_labels=())
    table = count_pairs(prediction.astype(int), truth.astype(int))
    assert report.scores == pytest.approx(partition_scores(table) | object_scores(table))
    assert report.voxels == 20 * 30 * 40


@pytest.mark.parametrize("dense", [0, 2**20])
def test_pairs_are_counted_exactly_with_or_without_a_full_table(monkeypatch, dense):
    monkeypatch.setattr(contingency, "_DENSE_TABLE", dense)
    prediction, truth = objects(3), objects(4)
    table = merge_pairs([count_pairs(prediction[:9], truth[:9]), count_pairs(prediction[9:], truth[9:])])
    values, counts = np.unique(np.stack([prediction.ravel(), truth.ravel()]), axis=1, return_counts=True)
    np.testing.assert_array_equal(table.prediction, values[0])
    np.testing.assert_array_equal(table.truth, values[1])
    np.testing.assert_array_equal(table.counts, counts)


def test_the_largest_labels_keep_every_bit(pair):
    truth = np.full((2, 3, 4), 2**64 - 3, dtype=np.uint64)
    truth[0] = 2**64 - 2
    report = evaluate(*pair(truth, truth), kind="instances")
    assert report.scores["objects_true"] == 2
    assert report.scores["adapted_rand_error"] == 0


def test_no_block_is_larger_than_stated(pair, monkeypatch):
    from connectomics_zoo.volumes import Volume

    monkeypatch.setattr(blocks, "BLOCK", (4, 8, 16))
    reads = []
    read = Volume.read
    monkeypatch.setattr(Volume, "read", lambda self, box: reads.append(box) or read(self, box))
    evaluate(*pair(objects(1), objects(2)))
    assert len(reads) == 2 * 5 * 4 * 3
    assert max(box.voxels for box in reads) == 4 * 8 * 16


# Foregrounds and classes ------------------------------------------------------------------------------------------

TRUTH = np.zeros((2, 2, 5), dtype=np.uint8)
TRUTH[0] = 1  # ten voxels
FOUND = np.zeros((2, 2, 5), dtype=np.uint8)
FOUND[:, 0] = 1  # five of them, and five others


def overlap(report):
    return [report.scores[name] for name in ("dice", "iou", "precision", "recall")]


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int32, np.uint64])
def test_overlap_of_masks(pair, dtype):
    found = FOUND.copy()
    found[1] = 0
    report = evaluate(*pair(found.astype(dtype), TRUTH))
    assert overlap(report) == pytest.approx([10 / 15, 0.5, 1, 0.5])
    assert (report.kind, report.read_as) == ("semantic", "a mask, foreground above 0")
    assert [report.scores[name] for name in ("true_positive", "false_positive", "false_negative")] == [5, 0, 5]
    report = evaluate(*pair(FOUND.astype(dtype), TRUTH))
    assert overlap(report) == pytest.approx([0.5, 1 / 3, 0.5, 0.5])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_probabilities_are_cut_above_the_threshold(pair, dtype):
    locations = pair((FOUND * 0.5 + 0.25).astype(dtype), TRUTH)
    assert overlap(evaluate(*locations)) == pytest.approx([0.5, 1 / 3, 0.5, 0.5])
    assert evaluate(*locations).read_as == "probabilities, foreground above 0.5"
    assert evaluate(*locations, threshold=0.75).scores["true_positive"] == 0
    assert evaluate(*locations, threshold=0.2).scores["recall"] == 1


def test_uint8_probabilities_are_cut_above_255_times_the_threshold(pair):
    locations = pair((FOUND * 64 + 64).astype(np.uint8), TRUTH)
    report = evaluate(*locations)
    assert report.read_as == "probabilities in uint8, foreground above 0.5 (127.5 of 255)"
    assert overlap(report) == pytest.approx([0.5, 1 / 3, 0.5, 0.5])
    assert evaluate(*locations, threshold=0.6).scores["true_positive"] == 0


def test_the_foreground_of_a_truth_with_objects_is_every_object(pair):
    truth = objects(0)
    locations = pair(((truth > 0) * 0.9).astype(np.float32), truth)
    assert evaluate(*locations).scores["dice"] == 1
    locations = pair((truth > 0).astype(np.uint8), truth)
    assert evaluate(*locations).scores["dice"] == 1
    probabilities = pair(np.where(truth > 0, 200, truth % 100).astype(np.uint8), truth)
    assert evaluate(*probabilities, threshold=0.5).scores["dice"] == 1


def declared(path, array, content):
    """Write a prediction that says what it holds."""
    with h5py.File(path, "w") as file:
        file["main"] = array
        file["main"].attrs["content"] = content
    return f"{path}:main"


def test_declared_probabilities_are_cut_at_one_half_whatever_the_truth_holds(tmp_path):
    truth = objects(0)
    probabilities = np.where(truth > 0, 128 + truth, truth % 100).astype(np.uint8)
    true = save(tmp_path / "truth.h5", truth)
    found = declared(tmp_path / "found.h5", probabilities, "probability")
    for kind in (None, "semantic"):
        report = evaluate(found, true, kind=kind)
        assert report.scores["dice"] == 1
        assert (report.kind, report.classes) == ("semantic", {})
        assert report.read_as == "probabilities in uint8, as the file says, foreground above 0.5 (127.5 of 255)"
    assert evaluate(found, true, threshold=0.9).scores["dice"] == 0
    with pytest.raises(VolumeError, match="holds probabilities, as the file says, and instances are labels: make"):
        evaluate(found, true, kind="instances")
    faint = declared(tmp_path / "faint.h5", (truth > 0).astype(np.uint8), "probability")
    assert evaluate(faint, true).scores["dice"] == 0
    floats = declared(tmp_path / "floats.h5", (truth > 0) * 0.6, "probability")
    assert evaluate(floats, true).read_as == "probabilities, as the file says, foreground above 0.5"


def test_declared_labels_are_no_probabilities(tmp_path):
    true = save(tmp_path / "truth.h5", TRUTH)
    found = declared(tmp_path / "found.h5", TRUTH * 3, "label")
    report = evaluate(found, true)
    assert report.scores["dice"] == 1
    assert report.read_as == "labels, as the file says, foreground above 0"
    with pytest.raises(VolumeError, match="holds labels, as the file says, and a threshold is for probabilities"):
        evaluate(found, true, threshold=0.5)
    many = declared(tmp_path / "many.h5", MANY.astype(np.uint8), "label")
    with pytest.raises(VolumeError, match="can be classes or objects: give --kind semantic or --kind instances"):
        evaluate(many, save(tmp_path / "objects.h5", MANY))


def test_both_empty_is_perfect_and_one_empty_is_zero(pair):
    empty = np.zeros_like(TRUTH)
    assert overlap(evaluate(*pair(empty, empty))) == [1, 1, 1, 1]
    assert overlap(evaluate(*pair(TRUTH, empty))) == [0, 0, 0, 0]
    assert overlap(evaluate(*pair(empty, TRUTH))) == [0, 0, 0, 0]


def test_classes_are_scored_each_and_on_average(pair):
    truth = np.array([[[0, 1, 1, 2, 2, 2, 0, 0]]], dtype=np.uint8)
    found = np.array([[[0, 1, 2, 2, 2, 2, 3, 0]]], dtype=np.uint8)
    report = evaluate(*pair(found, truth), kind="semantic")
    assert report.read_as == "classes, one for each label"
    assert report.classes[1]["dice"] == pytest.approx(2 / 3)
    assert report.classes[2]["dice"] == pytest.approx(6 / 7)
    assert report.classes[3]["dice"] == 0
    assert report.scores["dice"] == pytest.approx((2 / 3 + 6 / 7 + 0) / 3)


def test_ignored_labels_do_not_count(pair):
    truth = TRUTH.copy()
    truth[1] = 255
    report = evaluate(*pair(FOUND, truth), ignore_labels=[255])
    assert overlap(report) == pytest.approx([10 / 15, 0.5, 1, 0.5])
    assert (report.voxels, report.ignored_voxels) == (10, 10)


def test_instances_ignore_the_background_of_the_truth_unless_told_otherwise(pair):
    truth, found = objects(1), objects(2)
    locations = pair(found, truth)
    assert evaluate(*locations).ignored_voxels == (truth == 0).sum()
    assert evaluate(*locations, ignore_labels=()).ignored_voxels == 0
    assert evaluate(*locations, ignore_labels=[3]).ignored_voxels == (truth == 3).sum()


# Regions ----------------------------------------------------------------------------------------------------------


def test_a_region_is_cut_from_both_or_is_the_whole_prediction(pair, tmp_path):
    truth, found = objects(1), objects(2)
    whole, true = pair(found, truth)
    part = save(tmp_path / "part.h5", found[5:9, :, 10:20])
    first = evaluate(whole, true, region="z=5:9,x=10:20")
    second = evaluate(part, true, region="z=5:9,x=10:20")
    assert first.scores == second.scores
    assert first.region == ((5, 9), (0, 30), (10, 20))
    assert first.scores != evaluate(whole, true).scores


# What goes wrong --------------------------------------------------------------------------------------------------

MANY = objects(1)


@pytest.mark.parametrize(
    ("prediction", "truth", "options", "error", "message"),
    [
        (MANY[:5], MANY, {}, VolumeError, r"shape \(5, 30, 40\) .* must be \(20, 30, 40\): give the volumes"),
        (MANY[:5], MANY, {"region": "z=0:4"}, VolumeError, r"or that of the region, \(4, 30, 40\)"),
        (MANY, MANY, {"region": "z=0:40"}, VolumeError, r"z=0:40 is not inside .*, which has z=0:"),
        (MANY[0], MANY, {}, VolumeError, "has 2 dimensions"),
        (np.zeros((2, 3, 4, 5)), MANY, {}, VolumeError, "has 2 channels, and one is scored"),
        (np.full((2, 2, 2), np.nan), TRUTH[:, :, :2], {}, VolumeError, "holds nan at"),
        (MANY * 1.0, MANY, {}, VolumeError, "holds floats from 0 to 29, probabilities lie in 0..1"),
        (MANY, MANY + 0.5, {}, VolumeError, "the truth holds fractions"),
        (MANY / 30, MANY, {"kind": "instances"}, VolumeError, "holds float64, and instances are whole numbers"),
        (MANY, MANY, {"threshold": 0.5}, VolumeError, "holds int64 up to 29, and a threshold is for probabilities"),
        (MANY, MANY, {"kind": "instance"}, SpecError, "kind 'instance' is not known, give semantic or instances"),
        (MANY, MANY, {"threshold": 5}, SpecError, "the threshold 5 is not inside 0..1"),
        (MANY, MANY, {"threshold": 0.5, "kind": "instances"}, SpecError, "instances have no threshold"),
        (MANY.astype(np.uint8), MANY, {}, VolumeError, "probabilities, classes or objects: give --threshold 0.5"),
        (MANY, MANY * 0, {"kind": "instances"}, VolumeError, "every annotated voxel has the label 0, which is ignored"),
        (np.arange(600).reshape(6, 10, 10), np.arange(600).reshape(6, 10, 10), {"kind": "semantic"}, VolumeError,
         "has 600 labels, at most 256 can be classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_in_one_sentence(pair, prediction, truth, options, error, message):
    with pytest.raises(error, match=message) as caught:
        evaluate(*pair(prediction, truth), **options)
    assert "\n" not in str(caught.value)


def test_a_missing_dataset_is_named(pair):
    prediction, truth = pair(MANY, MANY)
    with pytest.raises(VolumeError, match="there is no array 'neurons'"):
        evaluate(prediction, truth.replace("main", "neurons"))


def test_a_single_channel_is_a_volume(pair):
    assert evaluate(*pair(FOUND[np.newaxis], TRUTH)).scores["dice"] == 0.5


# The command line -------------------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(evaluate_cli.command, [str(argument) for argument in arguments])


def test_the_command_prints_json(pair):
    result = invoke(*pair(FOUND, TRUTH), "--json", "--region", "z=0:1")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["scores"]["recall"] == 0.5
    assert report["region"] == [[0, 1], [0, 2], [0, 5]]


def test_the_command_prints_a_table_with_every_score(pair):
    result = invoke(*pair(FOUND, TRUTH), "--threshold", "0.5")
    assert result.exit_code == 0, result.output
    for word in ("Dice", "0.5000", "IoU", "0.3333", "a mask, foreground above 0", "20 voxels"):
        assert word in result.stdout
    result = invoke(*pair(np.arange(20).reshape(TRUTH.shape) % 4, TRUTH + 1), "--kind", "semantic")
    assert result.exit_code == 0, result.output
    result = invoke(*pair(MANY % 4, MANY % 3), "--kind", "semantic")
    assert "class 2" in result.stdout
    assert "mean" in result.stdout
    result = invoke(*pair(MANY, MANY), "--ignore-label", "5", "--ignore-label", "6")
    assert "adapted Rand error" in result.stdout


def test_the_command_draws_a_picture(pair, tmp_path):
    truth = np.zeros((3, 64, 64), dtype=np.uint8)
    truth[:, 20:40, 20:40] = 1
    image = save(tmp_path / "image.h5", np.random.default_rng(0).integers(0, 256, truth.shape).astype(np.uint8))
    result = invoke(*pair(np.roll(truth, 5, axis=1), truth), "--picture", tmp_path / "look.png", "--image", image)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "look.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_needs_an_image(pair, tmp_path):
    result = invoke(*pair(FOUND, TRUTH), "--picture", tmp_path / "look.png")
    assert isinstance(result.exception, SpecError)
    assert "--picture needs --image" in str(result.exception)


# What is not annotated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["semantic", "instances"])
def test_voxels_outside_of_the_mask_count_for_no_score(pair, tmp_path, kind):
    truth, prediction = objects(1), objects(2)
    annotated = np.zeros(truth.shape, np.uint8)
    annotated[3:9, 5:30] = 7
    if kind == "semantic":
        truth, prediction = (truth > 9).astype(np.uint8), (prediction > 9).astype(np.uint8)
    places = pair(prediction, truth)
    masked = evaluate(*places, kind=kind, mask=save(tmp_path / "mask.h5", annotated))
    assert masked.mask == f"{tmp_path}/mask.h5:main"
    assert masked.scores == evaluate(*places, kind=kind, region="z=3:9,y=5:30").scores
    assert masked.voxels + masked.ignored_voxels == truth.size


def test_the_mask_cuts_the_components_of_the_truth(tmp_path, pair):
    truth = np.zeros((2, 4, 9), np.uint8)
    truth[:, 1:3, 1:8] = 1
    annotated = np.ones(truth.shape, bool)
    annotated[:, :, 4] = False
    found = np.zeros(truth.shape, np.uint16)
    found[:, 1:3, 1:4], found[:, 1:3, 5:8] = 1, 2
    places = pair(found, truth)
    assert evaluate(*places, relabel=True).scores["objects_true"] == 1
    report = evaluate(*places, relabel=True, mask=save(tmp_path / "mask.h5", annotated))
    assert (report.scores["objects_true"], report.scores["objects_matched_50"]) == (2, 2)


@pytest.mark.parametrize(
    ("annotated", "words"),
    [
        (np.ones((20, 30, 41), np.uint8), r"truth and mask have the shapes \(20, 30, 40\) and \(20, 30, 41\)"),
        (np.zeros((20, 30, 40), np.uint8), "is 0 in all of z=0:20,y=0:30,x=0:40, so nothing can be scored"),
    ],
)
def test_a_mask_that_leaves_nothing_to_score_is_refused(pair, tmp_path, annotated, words):
    with pytest.raises(VolumeError, match=words):
        evaluate(*pair(objects(1), objects(2)), mask=save(tmp_path / "mask.h5", annotated))


def test_a_mask_needs_a_truth(tmp_path):
    with pytest.raises(SpecError, match="the mask says where the truth is annotated, and there is no truth"):
        evaluate("objects.h5", skeletons=tmp_path, mask="mask.h5")


def test_a_grey_image_as_truth_is_refused(pair, caplog):
    grey = np.random.default_rng(0).integers(0, 255, (6, 40, 40), dtype=np.uint8)
    with pytest.raises(VolumeError, match=r"truth\.h5:main: looks like a grey image, not like labels \(100 % of its"):
        evaluate(*pair((grey > 99).astype(np.uint8), grey))
    evaluate(*pair(objects(1), objects(2)))
    assert not caplog.text


def test_a_truth_of_one_label_is_warned_of_in_one_sentence(pair, caplog):
    evaluate(*pair((objects(1) > 0).astype(np.uint8), np.zeros_like(objects(1))), kind="semantic")
    (message,) = caplog.messages
    assert message.endswith("truth.h5:main: holds nothing but the label 0 in this part; it is scored all the same.")


def test_objects_in_a_truth_that_is_scored_as_a_mask_are_said_in_one_sentence(pair, caplog):
    truth = objects(1)
    evaluate(*pair((truth > 0).astype(np.uint8), truth))
    (message,) = caplog.messages
    count = len(np.unique(truth[truth > 0]))
    assert message.endswith(f"truth.h5:main: holds {count} labels, and all above 0 count as foreground.")


def test_the_mask_lies_where_the_truth_does(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", (4, 8, 16))
    truth, prediction = objects(1), objects(2)
    annotated = np.random.default_rng(3).random(truth.shape) < 0.6
    annotated[8:12] = False  # whole blocks
    mask = save(tmp_path / "mask.h5", annotated)
    found, true = pair(prediction[5:17], truth)
    report = evaluate(found, true, region="z=5:17", mask=mask)
    inside = annotated[5:17]
    table = count_pairs(prediction[5:17][inside], truth[5:17][inside])
    expected = partition_scores(table.select(table.truth != 0))
    assert {name: report.scores[name] for name in expected} == pytest.approx(expected)
    relabelled = evaluate(found, true, region="z=5:17", mask=mask, relabel=True)
    _, parts = np.unique(connected_objects(np.where(inside, truth[5:17], 0)), return_counts=True)
    assert relabelled.scores["objects_true"] == len(parts) - 1


def test_a_prediction_is_cut_where_the_task_that_it_carries_says(tmp_path):
    task = get_task("mito")
    task = task.model_copy(update={"decode": task.decode.model_copy(update={"threshold": 0.35})})
    values = np.where(TRUTH > 0, 0.4, 0.3)
    truth = save(tmp_path / "truth.h5", TRUTH)
    for name, stored in (("float", values.astype(np.float32)), ("uint8", np.rint(255 * values).astype(np.uint8))):
        for carried, dice in ((task, 1), (None, 0)):
            place = tmp_path / f"{name}-{dice}.h5"
            options = {"channels": None, "voxel_size_nm": None, "stored": StoredPrediction("probability", carried)}
            with create_volume(place, shape=TRUTH.shape, dtype=stored.dtype, **options) as volume:
                volume.write(volume.whole, stored)
            report = evaluate(place, truth)
            assert (report.scores["dice"], report.threshold) == (dice, 0.35 if carried else 0.5)
            assert evaluate(place, truth, threshold=0.5).scores["dice"] == 0
