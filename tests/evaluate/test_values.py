"""What labels and predictions hold is looked at before they are scored."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.evaluate import evaluate

TOP = 2**64 - 1
TRUTH = np.zeros((4, 24, 24), int)
TRUTH[1:3, 4:10, 4:10] = 1
TRUTH[1:4, 12:20, 12:22] = 2
FOUND = np.roll(TRUTH, 1, 2)


@pytest.fixture
def pair(tmp_path):
    """Write a prediction and a truth and return their locations."""

    def write(prediction, truth):
        for name, array in (("prediction", prediction), ("truth", truth)):
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file["main"] = array
        return tmp_path / "prediction.h5", tmp_path / "truth.h5"

    return write


def dice_of(*places, **options):
    return evaluate(*places, **options).scores["dice"]


@pytest.fixture
def dice(pair):
    return dice_of(*pair((FOUND > 0).astype("u1"), (TRUTH > 0).astype("u1")))


def test_a_background_of_the_largest_id_is_background_on_both_sides(pair, dice, caplog):
    truth = np.where(TRUTH > 0, TRUTH, TOP).astype("u8")
    assert dice_of(*pair((FOUND > 0).astype("u1") * 255, truth)) == dice
    assert caplog.messages == [
        f"{pair((FOUND > 0).astype('u1') * 255, truth)[1]}:main: has voxels with the largest id, {TOP}, which is taken "
        "for background; it is scored all the same."
    ]
    found = np.where(FOUND > 0, FOUND, TOP).astype("u8")
    report = evaluate(*pair(found, truth))
    assert (report.kind, report.scores["objects_true"], report.scores["objects_predicted"]) == ("instances", 2, 2)


def test_the_largest_id_may_be_unlabelled(pair):
    truth = np.where(TRUTH > 0, TRUTH, TOP).astype("u8")
    report = evaluate(*pair((FOUND > 0).astype("u1"), truth), kind="semantic", unlabelled=TOP)
    assert report.ignored_voxels == (TRUTH == 0).sum()


def test_0_and_the_largest_id_alone_are_unclear(pair):
    with pytest.raises(VolumeError, match=r"holds 0 and 4294967295 alone, and it is not clear which of them is"):
        evaluate(*pair((FOUND > 0).astype("u1"), np.where(TRUTH > 0, 2**32 - 1, 0).astype("u4")))


def test_negative_labels_ask_for_unlabelled(pair):
    places = pair((FOUND > 0).astype("u1"), np.where(TRUTH > 0, TRUTH, -1).astype("i4"))
    with pytest.raises(VolumeError, match=r"holds the negative label -1, .* \(zoo evaluate: --unlabelled -1;"):
        evaluate(*places)
    assert evaluate(*places, unlabelled=-1, kind="semantic").ignored_voxels == (TRUTH == 0).sum()


def test_objects_in_uint8_are_no_probabilities(pair, dice):
    report = evaluate(*pair(FOUND.astype("u1"), (TRUTH > 0).astype("u1")))
    assert report.scores["dice"] == dice
    assert report.read_as == "labels (3 values with hard edges), foreground above 0"


def test_objects_with_high_ids_in_uint8_are_asked_about(pair, dice):
    places = pair((FOUND * 100).astype("u1"), (TRUTH > 0).astype("u1"))
    with pytest.raises(VolumeError, match="holds uint8 up to 200 with hard edges, which can be labels or"):
        evaluate(*places)
    assert dice_of(*places, kind="semantic") == dice
    assert dice_of(*places, threshold=0.5) < dice


def test_probabilities_in_uint8_have_soft_edges(pair):
    found = gaussian_filter((FOUND > 0) * 255.0, (0, 1, 1)).astype("u1")
    report = evaluate(*pair(found, (TRUTH > 0).astype("u1")))
    assert report.read_as == "probabilities in uint8, foreground above 0.5 (127.5 of 255)"
    assert report.scores["dice"] > 0.7


@pytest.mark.parametrize("options", [{"kind": "semantic"}, {"relabel": True}, {"threshold": 0.5}], ids=str)
def test_a_soft_truth_is_warned_of(pair, caplog, options):
    truth = gaussian_filter((TRUTH > 0) * 255.0, (0, 1, 1)).astype("u1")
    evaluate(*pair((FOUND > 0).astype("u1"), truth), **options)
    low, high = truth.min(), truth.max()
    assert (
        f"truth.h5:main: looks like a soft mask, not like labels (its edges are ramps from {low} to {high}), and all "
        f"above 0 counts: cut it first, as mask > {(int(low) + int(high)) // 2}"
    ) in caplog.text
