"""Targets of classes: from one label volume or several, whole or annotated in part."""

from __future__ import annotations

import numpy as np
from support.tasks import class_task

from connectomics_zoo.tasks.targets import make_targets

LABELS = np.array([[[0, 1, 7, 2, 9]]], np.uint16)

SOFTMAX = class_task(
    ("background", {"kind": "background"}),
    ("mito", {"kind": "class", "labels": [1, 7]}),
    ("er", {"kind": "class", "labels": [2]}),
    softmax=True,
)


def rows(array):
    return array[:, 0, 0].astype(int).tolist()


def test_a_class_is_where_the_label_is_one_of_its_own():
    task = class_task(("mito", {"kind": "class", "labels": [1, 7]}), ("er", {"kind": "class", "labels": [2, 7]}))
    values, known = make_targets(LABELS, task=task, voxel_size_nm=None)
    assert rows(values) == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert known.all()


def test_what_is_none_of_the_classes_of_a_softmax_is_unknown():
    values, known = make_targets(LABELS, task=SOFTMAX, voxel_size_nm=None)
    assert rows(values) == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert rows(known) == [[1, 1, 1, 1, 0]] * 3


def test_a_background_of_labels_takes_those_that_no_class_has():
    rest = ("rest", {"kind": "class", "labels": [0, 9]})
    task = class_task(rest, *((c.name, c.target) for c in SOFTMAX.channels[1:]), softmax=True)
    values, known = make_targets(LABELS, task=task, voxel_size_nm=None)
    assert rows(values)[0] == [1, 0, 0, 0, 1]
    assert known.all()


def test_a_class_that_is_not_annotated_is_unknown_and_the_others_are_not():
    task = class_task(("mito", {"kind": "class", "labels": [1, 7]}), ("er", {"kind": "class", "labels": [2]}))
    _, known = make_targets(LABELS, task=task, voxel_size_nm=None, classes=["er"])
    assert rows(known) == [[0] * 5, [1] * 5]


def test_in_a_softmax_a_voxel_of_an_annotated_class_is_none_of_the_others():
    """Labels 0, 1, 7: not mito but er or background; mito; mito. Labels 2 and 9: of a class that is not annotated."""
    values, known = make_targets(LABELS, task=SOFTMAX, voxel_size_nm=None, classes=["mito"])
    assert rows(known) == [[0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert rows(values * known) == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_an_annotated_background_leaves_nothing_open_but_what_other_classes_claim():
    _, known = make_targets(LABELS, task=SOFTMAX, voxel_size_nm=None, classes=["background", "mito"])
    assert rows(known) == [[1, 1, 1, 0, 0]] * 3


def test_without_a_background_channel_what_has_no_label_is_unknown():
    task = class_task(*((c.name, c.target) for c in SOFTMAX.channels[1:]), softmax=True)
    _, known = make_targets(LABELS, task=task, voxel_size_nm=None)
    assert rows(known) == [[0, 1, 1, 1, 0]] * 2


def test_what_is_not_annotated_stays_unknown_in_a_softmax():
    annotated = np.array([[[True, False, True, False, True]]])
    _, known = make_targets(LABELS, task=SOFTMAX, voxel_size_nm=None, annotated=annotated, classes=["mito"])
    assert rows(known) == [[0, 0, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0]]


def test_each_target_is_made_of_the_label_volume_that_it_names():
    generator = np.random.default_rng(0)
    mask, cells = generator.integers(0, 2, (4, 6, 6)), generator.integers(0, 3, (4, 6, 6))
    task = class_task(
        ("mask", {"kind": "foreground", "volume": "m"}),
        ("edges", {"kind": "boundary", "volume": "c"}),
        ("second", {"kind": "class", "labels": [2], "volume": "c"}),
    )
    stack, annotated = np.stack([cells, mask]), np.ones((2, 4, 6, 6), bool)
    annotated[1, 2] = False
    values, known = make_targets(stack, task=task, voxel_size_nm=(50, 4, 4), annotated=annotated, volumes=("c", "m"))
    assert np.array_equal(values[0], mask * annotated[1])
    assert np.array_equal(values[2], cells == 2)
    alone = make_targets(cells, task=class_task(("edges", {"kind": "boundary"})), voxel_size_nm=(50, 4, 4))
    assert np.array_equal(values[1], alone.values[0])
    assert np.array_equal(known[0], annotated[1])
    assert known[1:].all()


def test_of_a_label_volume_that_is_missing_nothing_is_known():
    task = class_task(("a", {"kind": "foreground", "volume": "a"}), ("b", {"kind": "foreground", "volume": "b"}))
    values, known = make_targets(LABELS[np.newaxis], task=task, voxel_size_nm=None, volumes=("b",))
    assert (known[0].any(), known[1].all()) == (False, True)
    assert np.array_equal(values[1], LABELS > 0)


def test_ids_of_64_bits_are_classes_as_they_are():
    top = 2**63 + 5
    labels = np.array([[[top, top + 1, 0]]], np.uint64)
    task = class_task(("a", {"kind": "class", "labels": [top]}), ("b", {"kind": "class", "labels": [top + 1]}))
    values, _ = make_targets(labels, task=task, voxel_size_nm=None)
    assert rows(values) == [[1, 0, 0], [0, 1, 0]]
