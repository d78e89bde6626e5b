"""`make_targets` refuses names of which nothing would be known without a word."""

from __future__ import annotations

import re

import numpy as np
import pytest

from connectomics_zoo.errors import SpecError
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.targets import make_targets

LABELS = np.ones((3, 4, 8, 8), np.uint8)
NAMES = ("membranes", "mitochondria", "synapses")


@pytest.mark.parametrize(
    ("task", "labels", "given", "message"),
    [
        (
            "vnc-classes",
            LABELS,
            {"volumes": NAMES, "classes": ["mitochondira"]},
            "has no class 'mitochondira': did you",
        ),
        ("vnc-classes", LABELS, {"volumes": ("a", "b", "c")}, "'membranes', 'mitochondria', 'synapses', and the label"),
        ("vnc-classes", LABELS[0], {}, "and the label volumes are one without a name: stack them as (V, Z, Y, X)"),
        ("vnc-classes", LABELS[:2], {"volumes": NAMES}, "3 label volumes are named"),
        ("mito", LABELS[:1], {"volumes": ("mito",)}, "has one label volume without a name: leave out volumes='mito'"),
    ],
)
def test_names_that_the_task_does_not_have_are_refused(task, labels, given, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        make_targets(labels, task=get_task(task), voxel_size_nm=(50.0, 5.0, 5.0), **given)


def test_a_label_volume_may_be_missing():
    known = make_targets(LABELS[:1], task=get_task("vnc-classes"), voxel_size_nm=None, volumes=NAMES[1:2]).known
    assert known.any(axis=(1, 2, 3)).tolist() == [name == "mitochondria" for name in NAMES]
