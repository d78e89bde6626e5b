"""Labels are looked at once: background, negative ids, soft masks, and uint8 that may be probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support.paths import SHARED
from support.volume_files import fails, h5

from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.label_look import LabelLook, clean_labels
from connectomics_zoo.volumes.truth import read_truth

OBJECTS = np.zeros((4, 24, 24), int)
OBJECTS[1:3, 4:10, 4:10] = 1
OBJECTS[1:4, 12:20, 12:22] = 2
TOP = 2**64 - 1


def look_at(labels, *, unlabelled=(), known=None):
    look = LabelLook(unlabelled)
    look.add(labels, known)
    return look


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "int64", "int32"])
def test_the_largest_id_of_a_wide_type_is_background_and_said_to_be(dtype):
    top = np.iinfo(dtype).max
    labels = np.where(OBJECTS > 0, OBJECTS, top).astype(dtype)
    np.testing.assert_array_equal(clean_labels(labels, unlabelled=(), location="a"), OBJECTS)
    np.testing.assert_array_equal(clean_labels(labels, unlabelled=(int(top),), location="a"), labels)
    assert look_at(labels).warnings(labels.dtype) == [
        f"has voxels with the largest id, {top}, which is taken for background"
    ]
    assert look_at(labels, unlabelled=[int(top)]).warnings(labels.dtype) == []


def test_the_largest_id_of_16_bits_is_asked_about():
    labels = np.where(OBJECTS == 2, 65535, OBJECTS).astype(np.uint16)
    np.testing.assert_array_equal(clean_labels(labels, unlabelled=(), location="a"), labels)
    (warning,) = look_at(labels).warnings(labels.dtype)
    assert "the largest id, 65535, which is taken for one of them: if it is background or not" in warning


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_0_and_the_largest_id_alone_are_unclear(dtype):
    top = np.iinfo(dtype).max
    labels = np.where(OBJECTS > 0, top, 0).astype(dtype)
    with fails(f"a: holds 0 and {top} alone, and it is not clear which of them is background"):
        look_at(labels).refuse_unclear(labels.dtype, location="a")
    look_at(labels, unlabelled=[int(top)]).refuse_unclear(labels.dtype, location="a")
    look_at(labels[:1]).refuse_unclear(labels.dtype, location="a")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_negative_labels_are_refused_unless_they_are_not_annotated(tmp_path, dtype):
    labels = np.where(OBJECTS > 0, OBJECTS, -1).astype(dtype)
    label = open_volume(h5(tmp_path / "a.h5", label=labels))
    with fails("a.h5:label: holds the negative label -1, and objects have positive ones: if voxels with it are not"):
        read_truth(label, None, label.whole, unlabelled=None)
    truth = read_truth(label, None, label.whole, unlabelled=-1)
    np.testing.assert_array_equal(truth.labels, OBJECTS)
    np.testing.assert_array_equal(truth.annotated, OBJECTS > 0)


@pytest.mark.parametrize("unlabelled", [TOP, TOP - 1, 2**63])
def test_any_id_of_64_bits_may_be_unlabelled_and_no_other_is_with_it(tmp_path, unlabelled):
    labels = np.where(OBJECTS > 0, unlabelled, OBJECTS).astype(np.uint64)
    labels[0, 0, 0] = unlabelled - 1
    label = open_volume(h5(tmp_path / "a.h5", label=labels))
    annotated = read_truth(label, None, label.whole, unlabelled=unlabelled).annotated
    np.testing.assert_array_equal(annotated, OBJECTS == 0)


@pytest.mark.parametrize("sigma", [0.7, 1, 2])
def test_a_mask_with_soft_edges_is_warned_of(sigma):
    soft = (gaussian_filter((OBJECTS > 0) * 1.0, (0, sigma, sigma)) * 255).astype(np.uint8)
    (warning,) = look_at(soft).warnings(soft.dtype)
    assert "looks like a soft mask, not like labels (its edges are ramps from 0 to" in warning
    assert "and all above 0 counts: cut it first, as mask > 1" in warning


@pytest.mark.parametrize("labels", [OBJECTS, OBJECTS > 0, (OBJECTS > 0) * 255, OBJECTS * 100], ids="abcd")
def test_labels_with_hard_edges_are_not(labels):
    assert look_at(labels.astype(np.uint8)).warnings(np.dtype(np.uint8)) == []


@pytest.mark.parametrize(
    ("values", "held"),
    [
        (OBJECTS, "label"),
        (OBJECTS * 60, "label"),
        ((OBJECTS > 0) * 255, "probability"),
        (OBJECTS * 100, "unclear"),
        (gaussian_filter((OBJECTS > 0) * 200.0, (0, 1, 1)), "probability"),
        (gaussian_filter((OBJECTS > 0) * 90.0, (0, 1, 1)), "probability"),
        ((OBJECTS > 0) * 64 + 64, "probability"),
    ],
    ids=str,
)
def test_hard_edges_tell_labels_in_uint8_from_probabilities(values, held):
    assert look_at(values.astype(np.uint8)).bytes_hold() == held


def test_the_largest_id_is_seen_beyond_any_number_of_labels():
    look = look_at(np.arange(2000, dtype=np.uint32).repeat(4).reshape(4, 4, 500))
    look.add(np.full((2, 2, 2), 2**32 - 1, np.uint32))
    assert 2**32 - 1 in look.values


def antialiased(mask):
    """Half as many pixels along y and x, each the mean of four, as a program that scales pictures makes them."""
    return (mask.reshape(4, 12, 2, 12, 2).mean(axis=(2, 4)) * 255).astype(np.uint8)


def test_an_antialiased_mask_is_warned_of():
    rows, columns = np.indices((24, 24))
    disc = np.broadcast_to((rows - 11.3) ** 2 + (columns - 12.4) ** 2 < 64, (4, 24, 24))
    (warning,) = look_at(antialiased(disc)).check(np.dtype(np.uint8), location="a")
    assert "looks like a soft mask, not like labels (its edges are ramps from 0 to 255)" in warning


def test_a_grey_image_is_refused_and_points_and_noise_are_not():
    random = np.random.default_rng(0)
    grey = random.integers(0, 255, (4, 40, 40)).astype(np.uint8)
    with fails("a: looks like a grey image, not like labels (100 % of its voxels differ from the next one along x"):
        look_at(grey).check(grey.dtype, location="a")
    points = np.repeat(random.random((4, 40, 20)) < 0.02, 2, axis=2)
    assert look_at(grey, known=points).check(grey.dtype, location="a") == []
    noise = random.integers(0, 4, (4, 40, 40)).astype(np.uint8)
    assert look_at(noise).check(noise.dtype, location="a") == []


REAL = SHARED / "data"


@pytest.mark.parametrize(
    "place",
    [
        "vnc/vnc_stack1_z00-15.h5:mitochondria",
        "vnc/vnc_stack1_z00-15.h5:membranes",
        "vnc/vnc_stack1_z00-15.h5:synapses",
        "fib25/fib25_sample2_z000-199.h5:neurons",
        "fib25/fib25_sample2_z000-199.h5:supervoxels",
    ],
)
def test_real_labels_raise_no_alarm(place):
    if not (REAL / place.split(":")[0]).is_file():
        pytest.skip(f"{REAL} has no such volume")
    with open_volume(REAL / place) as label:
        look = LabelLook()
        look.add(label.read_plain(label.whole.middle((16, 512, 512))))
        assert look.check(label.dtype, location=label.location) == []


def test_what_is_not_known_is_not_looked_at():
    grey = np.random.default_rng(0).integers(0, 255, OBJECTS.shape).astype(np.uint8)
    grey[:, :12] = 0
    known = np.zeros(grey.shape, bool)
    known[:, :12] = True
    look = look_at(grey, known=known)
    assert (look.grey, look.values) == (None, {0})
    assert look_at(grey, unlabelled=range(1, 255)).values == {0}
