"""Targets: what each kind makes of labels."""

from __future__ import annotations

import numpy as np
import pytest
from test_losses import make_task

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.registry import get_task
from connectomics_zoo.targets import is_continuous, make_targets


def targets(labels, kind, *, voxel_size_nm=None):
    # Beside a channel that can be scored, which every task has.
    task = make_task(("sigmoid", kind, {"mse": 1.0}), ("sigmoid", "value" if kind == "value" else "foreground", {}))
    return make_targets(np.asarray(labels), task=task, voxel_size_nm=voxel_size_nm).values[0]


LABELS = np.array([[[0, 0, 1, 1], [0, 0, 1, 2]], [[0, 0, 1, 1], [0, 0, 1, 1]]], np.uint16)


def test_foreground_is_every_label_but_zero_and_background_the_rest():
    assert np.array_equal(targets(LABELS, "foreground"), LABELS > 0)
    assert np.array_equal(targets(LABELS, "background"), LABELS == 0)


def test_the_binary_task_s_targets_are_one_hot():
    both = make_targets(LABELS, task=get_task("binary"), voxel_size_nm=None).values
    assert both.dtype == np.float32
    assert np.array_equal(both.sum(axis=0), np.ones(LABELS.shape))
    assert np.array_equal(both[1], LABELS > 0)


def test_boundaries_are_both_voxels_of_a_face_between_two_labels():
    expected = np.array([[[0, 1, 1, 1], [0, 1, 1, 1]], [[0, 1, 1, 0], [0, 1, 1, 1]]])
    assert np.array_equal(targets(LABELS, "boundary", voxel_size_nm=(8, 8, 8)), expected)


@pytest.mark.parametrize("voxel_size_nm", [None, (50, 4.6, 4.6)])
def test_thick_sections_are_not_compared_with_each_other(voxel_size_nm):
    expected = np.array([[[0, 1, 1, 1], [0, 1, 1, 1]], [[0, 1, 1, 0], [0, 1, 1, 0]]])
    assert np.array_equal(targets(LABELS, "boundary", voxel_size_nm=voxel_size_nm), expected)


def test_value_targets_are_the_labels_and_must_lie_in_0_to_1():
    assert np.array_equal(targets([[[0.0, 0.5]]], "value"), np.array([[[0, 0.5]]], np.float32))
    with pytest.raises(VolumeError, match=r"'c0' takes labels as values, which must lie in 0..1 and lie in 0..3\."):
        targets([[[0.0, 3.0]]], "value")


def test_only_value_targets_are_continuous():
    task = make_task(("sigmoid", "foreground", {"bce": 1.0}), ("sigmoid", "value", {"mse": 1.0}))
    assert is_continuous(task) == [False, True]
