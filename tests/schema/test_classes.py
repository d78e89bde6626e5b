"""Tasks of several classes: which may be exclusive, which is background, and which label volumes they name."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError
from support.tasks import class_task

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.experiment import VolumePair
from connectomics_zoo.schema.target import TargetSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.lookup import get_task

BACKGROUND = ("background", {"kind": "background"})


def of(*labels, **fields):
    return {"kind": "class", "labels": list(labels), **fields}


def test_classes_of_different_labels_exclude_each_other():
    task = class_task(BACKGROUND, ("mito", of(1, 7)), ("er", of(2)), softmax=True)
    assert task.scored == (1, 2)
    assert task.has_classes


def test_what_a_class_is_made_of_tells_tasks_apart():
    one, other = (class_task(BACKGROUND, ("mito", of(*labels)), softmax=True) for labels in ([1], [2]))
    assert one.identity() != other.identity()
    assert "decode" in one.identity()
    assert "decode" not in one.identity(exclude={"decode"})


def test_a_class_with_the_label_0_is_background():
    task = class_task(("rest", of(0, 3)), ("mito", of(1, 7)), ("er", of(2)), softmax=True)
    assert task.scored == (1, 2)


@pytest.mark.parametrize(
    ("first", "second", "exclusive"),
    [
        (of(1, 7), of(2), True),
        (of(1, 7), of(7, 8), False),
        (of(1), {"kind": "background"}, True),
        (of(0, 1), {"kind": "background"}, False),
        (of(0), {"kind": "foreground"}, True),
        (of(3), {"kind": "foreground"}, False),
        (of(2, 4), {"kind": "presynapse"}, True),
        (of(2, 4), {"kind": "postsynapse"}, False),
        (of(3), {"kind": "boundary"}, False),
        (of(1, volume="a"), of(2, volume="b"), False),
        (of(1, volume="a"), of(2, volume="a"), True),
        ({"kind": "foreground", "volume": "a"}, {"kind": "background", "volume": "b"}, False),
    ],
)
def test_targets_exclude_each_other_where_no_label_is_both(first, second, exclusive):
    one, other = TargetSpec.model_validate(first), TargetSpec.model_validate(second)
    assert (one.excludes(other), other.excludes(one)) == (exclusive, exclusive)


def test_a_softmax_over_classes_that_share_a_label_is_refused():
    with pytest.raises(ValidationError, match=r"can be both 'mito' \(class\) and 'er' \(class\).*'sigmoid'"):
        class_task(("mito", of(1, 7)), ("er", of(7)), softmax=True)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kind": "class"}, "kind 'class' needs labels"),
        ({"kind": "foreground", "labels": [1]}, "labels has no effect with kind 'foreground', leave it out"),
        (of(1, 2, 1), r"labels \[1, 2, 1\] has a label twice, leave one out"),
        ({"kind": "value", "volume": "a"}, "volume has no effect with kind 'value'"),
    ],
)
def test_a_target_says_what_makes_its_class(target, message):
    with pytest.raises(ValidationError, match=message):
        TargetSpec.model_validate(target)


def test_all_targets_name_a_label_volume_or_none_does():
    with pytest.raises(ValidationError, match=r"target of 'b' names no volume and others do \(x\): give all one"):
        class_task(("a", {"kind": "foreground", "volume": "x"}), ("b", {"kind": "foreground"}))


def test_labels_that_are_classes_keep_their_numbers():
    with pytest.raises(ValidationError, match="relabel gives new numbers to labels that the class 'a' is made of"):
        class_task(("a", of(1)), ("b", of(2)), labels={"relabel": True})


def test_the_task_of_the_cellmap_challenge_has_its_parts():
    """The parts of each class, as the challenge's table has them, and the classes that are within."""
    parts = {"mito": {3, 4, 5}, "er": {*range(16, 24)}, "nuc": {*range(20, 30)}, "ld": {14, 15}, "ves": {8, 9}}
    own = {"mito": 50, "er": 51, "nuc": 37, "ld": 44, "ves": 41}
    groups = {
        46: {18, 19},
        52: {*range(20, 24)},
        53: {22, 23},
        54: {*range(24, 28)},
        64: {16, 18, 20},
        65: {20, 22, 23},
    }
    channels = {channel.name: set(channel.target.labels) for channel in get_task("organelles").channels}
    for name, ids in parts.items():
        within = {group for group, its in groups.items() if its <= ids}
        assert channels[name] == ids | {own[name]} | within
    shared = [a for (a, one), (b, other) in itertools.combinations(channels.items(), 2) if one & other]
    assert shared == ["er"]  # with nuc, by the nuclear envelope


def test_a_pair_has_one_label_volume_or_several_by_name():
    one = VolumePair.model_validate({"image": "a.h5:raw", "label": "a.h5:l", "mask": "a.h5:m"})
    assert one.label_places == {None: "a.h5:l"}
    assert one.places == ("a.h5:raw", "a.h5:l", "a.h5:m")
    several = VolumePair.model_validate({"image": "a.h5:raw", "label": {"x": "a.h5:x", "y": "b.tif"}})
    assert several.label_places == {"x": "a.h5:x", "y": "b.tif"}
    assert several.places == ("a.h5:raw", "a.h5:x", "b.tif")


@pytest.mark.parametrize("label", [{}, 5, "", {"x": 5}, ["a.h5:l"]])
def test_a_label_that_is_no_place_is_refused_in_one_sentence(label):
    with pytest.raises(SpecError, match=r"^x: label: must be a place, FILE:DATASET, .* by name( \(got .*\))?$"):
        validate(VolumePair, {"image": "a.h5:raw", "label": label}, source="x")
