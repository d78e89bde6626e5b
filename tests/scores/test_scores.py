"""Scores of label pairs: equal to matching objects one by one, and exact where there is little to score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.optimize import linear_sum_assignment

from connectomics_zoo.scores.contingency import Contingency, count_pairs
from connectomics_zoo.scores.scores import object_scores, partition_scores


def matched_by_hand(prediction, truth, threshold):
    """The IoU of the matches, with as many as a one-to-one assignment can have."""
    predicted = [prediction == label for label in np.unique(prediction) if label != 0]
    true = [truth == label for label in np.unique(truth) if label != 0]
    overlaps = np.zeros((len(predicted), len(true)))
    for row, one in enumerate(predicted):
        for column, other in enumerate(true):
            overlaps[row, column] = (one & other).sum() / (one | other).sum()
    rows, columns = linear_sum_assignment(-(overlaps > threshold).astype(float))
    chosen = overlaps[rows, columns]
    return chosen[chosen > threshold], len(predicted), len(true)


labels = npst.arrays(np.int64, (2, 3, 5), elements=st.integers(-1, 3))
"""Few voxels for few labels, so that many overlap enough to match."""


@given(prediction=labels, truth=labels, same=npst.arrays(bool, (2, 3, 5)))
@settings(max_examples=200, deadline=None)
def test_object_scores_equal_matching_one_by_one(prediction, truth, same):
    prediction = np.where(same, truth, prediction)
    found = object_scores(count_pairs(prediction, truth))
    for threshold in (0.5, 0.75):
        overlaps, predicted, true = matched_by_hand(prediction, truth, threshold)
        union = predicted + true - len(overlaps)
        assert found[f"ap_{threshold * 100:.0f}"] == pytest.approx(len(overlaps) / union if union else 1)
        if threshold == 0.5 and union:
            assert found["precision_50"] == pytest.approx(len(overlaps) / predicted if predicted else 0)
            assert found["recall_50"] == pytest.approx(len(overlaps) / true if true else 0)
            assert found["f1_50"] == pytest.approx(2 * len(overlaps) / (predicted + true))
            halves = (predicted + true) / 2
            assert found["panoptic_quality"] == pytest.approx(overlaps.sum() / halves)
            assert found["segmentation_quality"] == pytest.approx(overlaps.mean() if len(overlaps) else 0)
            assert [found[f"objects_{name}"] for name in ("matched_50", "predicted", "true")] == [
                len(overlaps),
                predicted,
                true,
            ]


def test_an_overlap_of_exactly_one_half_is_no_match():
    halves, whole = np.repeat([1, 2], 5), np.full(10, 7)
    assert object_scores(count_pairs(halves, whole))["ap_50"] == 0
    assert object_scores(count_pairs(whole, halves))["ap_50"] == 0
    more = np.array([1] * 6 + [2] * 4)
    assert object_scores(count_pairs(more, whole))["ap_50"] == pytest.approx(1 / 2)


def test_without_objects_on_both_sides_all_is_one_and_on_one_side_zero():
    empty, one = np.zeros(5, dtype=int), np.ones(5, dtype=int)
    names = ("ap_50", "ap_75", "precision_50", "recall_50", "f1_50", "panoptic_quality", "segmentation_quality")
    for prediction, truth, expected in ((empty, empty, 1), (one, empty, 0), (empty, one, 0)):
        scores = object_scores(count_pairs(prediction, truth))
        assert {scores[name] for name in names} == {expected}


def test_the_cremi_score_is_the_geometric_mean_of_rand_error_and_voi():
    table = count_pairs(np.arange(60) // 7, np.arange(60) // 11)
    scores = partition_scores(table)
    assert scores["cremi_score"] ** 2 == pytest.approx(scores["adapted_rand_error"] * scores["voi"])
    assert scores["cremi_score"] > 0.1
    assert partition_scores(count_pairs(np.arange(60) // 7, np.arange(60) // 7))["cremi_score"] == 0


def test_objects_too_large_for_exact_sums_of_squares_have_no_error_below_zero():
    random = np.random.default_rng(0)
    for _ in range(50):
        sizes = random.integers(10**9, 10**10, 20)
        table = Contingency(random.permutation(20), np.arange(20), sizes)
        scores = partition_scores(table)
        assert 0 <= scores["adapted_rand_error"] < 1e-12
        assert 0 <= scores["cremi_score"] < 1e-6
