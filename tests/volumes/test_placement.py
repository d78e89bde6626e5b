"""A prediction of a part says where it lies, and is compared with that part of a truth and no other."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from support.object_volumes import affinity_task, true_values, voronoi_labels, write_labels

import zoo
from connectomics_zoo.decode import decode
from connectomics_zoo.errors import VolumeError
from connectomics_zoo.evaluate import evaluate
from connectomics_zoo.pictures import comparison
from connectomics_zoo.volumes import Box, Placement, StoredPrediction, create_volume, open_volume
from connectomics_zoo.volumes.values import store_values

LABELS = voronoi_labels((16, 24, 24), objects=10)
PLACE = Box((4, 0, 8), (12, 24, 20))
PART = LABELS[PLACE.slices]


@pytest.fixture
def truth(tmp_path):
    return write_labels(tmp_path / "truth.h5", LABELS)


LIES = Placement(PLACE, LABELS.shape)


def write(location, array, *, placement, task=None, content="instances"):
    shape = array.shape[-3:]
    with create_volume(
        location,
        shape=shape,
        dtype=array.dtype,
        channels=None if array.ndim == 3 else len(array),
        voxel_size_nm=None,
        stored=StoredPrediction(content, task, placement),
    ) as volume:
        volume.write(volume.whole, array)
    return location


@pytest.mark.parametrize("name", ["p.h5", "p.zarr"])
def test_a_volume_says_where_its_first_voxel_lies(tmp_path, name):
    write(tmp_path / name, PART.astype(np.uint32), placement=LIES)
    with open_volume(tmp_path / name) as volume:
        assert volume.placement == LIES
    write(tmp_path / f"unknown-{name}", PART.astype(np.uint32), placement=None)
    with open_volume(tmp_path / f"unknown-{name}") as volume:
        assert volume.placement is None


def test_a_file_says_it_by_its_first_voxel_and_the_shape_of_the_whole(tmp_path):
    write(tmp_path / "p.h5", PART.astype(np.uint32), placement=LIES)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        attributes = file["main"].attrs
        assert [attributes[name].tolist() for name in ("first_voxel", "whole_shape")] == [[4, 0, 8], [16, 24, 24]]
        attributes["first_voxel"] = [5, 0, 8]
    with open_volume(tmp_path / "p.h5") as volume:
        assert volume.placement == Placement(Box((5, 0, 8), (13, 24, 20)), (16, 24, 24))


@pytest.mark.parametrize("region", [None, "z=12:14,y=0:24,x=8:20"])
def test_a_place_that_is_not_inside_the_whole_is_refused(tmp_path, truth, region):
    outside = Placement(Box((12, 0, 8), (20, 24, 20)), LABELS.shape)
    found = write(tmp_path / "p.h5", PART.astype(np.uint32), placement=outside)
    with pytest.raises(VolumeError, match=r"the region z=12:20 is not inside .*truth\.h5:main, which has z=0:16"):
        evaluate(found, truth, region=region)


@pytest.mark.parametrize("name", ["p.h5", "p.zarr"])
def test_it_is_scored_where_it_lies_without_being_told(tmp_path, truth, name):
    found = write(tmp_path / name, PART.astype(np.uint32), placement=LIES)
    report = evaluate(found, truth)
    assert report.region == ((4, 12), (0, 24), (8, 20))
    assert report.scores["adapted_rand_error"] == pytest.approx(0, abs=1e-9)
    inner = evaluate(found, truth, region="z=6:8,x=9:12")
    assert inner.region == ((6, 8), (0, 24), (9, 12))
    assert inner.scores["voi"] == pytest.approx(0, abs=1e-9)


def test_another_part_of_the_same_shape_is_refused(tmp_path, truth):
    found = write(tmp_path / "p.h5", PART.astype(np.uint32), placement=LIES)
    words = "is of z=4:12,y=0:24,x=8:20, and the region z=5:13,y=0:24,x=8:20 reaches out of it"
    with pytest.raises(VolumeError, match=words):
        evaluate(found, truth, region="z=5:13,x=8:20")


def test_its_place_is_in_a_volume_of_that_shape_alone(tmp_path, truth):
    in_a_cut_out = Placement(Box((0, 0, 2), (8, 24, 14)), (8, 24, 14))
    found = write(tmp_path / "p.h5", PART.astype(np.uint32), placement=in_a_cut_out)
    with pytest.raises(VolumeError, match=r"has the shape \(8, 24, 12\) and .* give the volumes that belong together"):
        evaluate(found, truth)
    assert evaluate(found, truth, region="z=4:12,x=8:20").scores["voi"] == pytest.approx(0, abs=1e-9)


def test_a_truth_that_was_cut_out_as_well_is_taken_as_it_is(tmp_path):
    found = write(tmp_path / "p.h5", PART.astype(np.uint32), placement=LIES)
    cut = write_labels(tmp_path / "cut.h5", PART)
    assert evaluate(found, cut).scores["voi"] == pytest.approx(0, abs=1e-9)


def test_objects_lie_where_the_prediction_did(tmp_path, truth):
    task = affinity_task()
    values = store_values(true_values(PART, task), task=task, dtype=np.dtype("uint8"))
    found = write(tmp_path / "p.h5", values, placement=LIES, task=task, content="probability")
    decode(found, tmp_path / "objects.h5")
    decode(found, tmp_path / "part.h5", region="z=6:10")
    decode(found, tmp_path / "tuned.h5", tune_on=truth, region="z=6:10,x=8:20")
    places, inner = {}, Placement(Box((6, 0, 8), (10, 24, 20)), (16, 24, 24))
    for name in ("objects", "part", "tuned"):
        with open_volume(tmp_path / f"{name}.h5") as volume:
            places[name] = volume.placement
        # Objects are those of the truth, but for the voxels whose last affinity reaches out of the part.
        assert evaluate(tmp_path / f"{name}.h5", truth).scores["rand_precision"] > 0.95
    assert places == {"objects": LIES, "part": inner, "tuned": inner}


def test_objects_that_are_tuned_on_a_cut_out_truth_keep_their_place(tmp_path, truth):
    task = affinity_task()
    values = store_values(true_values(PART, task), task=task, dtype=np.dtype("uint8"))
    found = write(tmp_path / "p.h5", values, placement=LIES, task=task, content="probability")
    decode(found, tmp_path / "objects.h5", tune_on=write_labels(tmp_path / "cut.h5", PART), region="z=2:6")
    with open_volume(tmp_path / "objects.h5") as volume:
        assert volume.placement == Placement(Box((6, 0, 8), (10, 24, 20)), (16, 24, 24))
    assert evaluate(tmp_path / "objects.h5", truth).scores["rand_precision"] > 0.95


def test_objects_of_a_prediction_of_a_whole_volume_are_a_part_of_that(tmp_path):
    task = affinity_task()
    values = store_values(true_values(PART, task), task=task, dtype=np.dtype("uint8"))
    found = write(tmp_path / "p.h5", values, placement=None, task=task, content="probability")
    decode(found, tmp_path / "objects.h5", region="z=2:6")
    decode(found, tmp_path / "all.h5")
    with open_volume(tmp_path / "objects.h5") as some, open_volume(tmp_path / "all.h5") as volume:
        assert (some.placement, volume.placement) == (Placement(Box((2, 0, 0), (6, 24, 12)), (8, 24, 12)), None)


def test_the_picture_shows_the_same_part(tmp_path, truth, monkeypatch):
    found = write(tmp_path / "p.h5", PART.astype(np.uint32), placement=LIES)
    drawn = {}
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: drawn.update(given))
    comparison.draw_volumes(tmp_path / "a.png", image=truth, truth=truth, prediction=found)
    np.testing.assert_array_equal(drawn["truth"], drawn["prediction"])
    assert drawn["section_names"][0] == "z = 5"


def test_the_picture_shows_what_is_not_known_and_a_single_object_as_one(tmp_path, truth, monkeypatch):
    mask = LABELS != 3
    drawn = {}
    monkeypatch.setattr(comparison, "draw_comparison", lambda path, **given: drawn.update(given))
    found = write(tmp_path / "p.h5", PART.astype(np.uint8), placement=LIES, content=None)
    given = {"image": truth, "truth": truth, "prediction": found, "mask": write_labels(tmp_path / "m.h5", mask)}
    comparison.draw_volumes(tmp_path / "a.png", **given, unlabelled=5, objects=True)
    rows = [int(name.removeprefix("z = ")) for name in drawn["section_names"]]
    shown = LABELS[rows][:, :, 8:20]
    np.testing.assert_array_equal(drawn["known"], ~np.isin(shown, (3, 5)))
    np.testing.assert_array_equal(drawn["truth"], np.where(drawn["known"], shown, 0))
    one = write_labels(tmp_path / "one.h5", np.ones_like(LABELS))
    comparison.draw_volumes(tmp_path / "a.png", image=truth, truth=one, prediction=found, objects=True)
    assert drawn["prediction"].max() > 1, "labels, no probabilities"


def test_skeletons_lie_in_the_volume_that_was_predicted(tmp_path):
    found = write(tmp_path / "p.h5", np.ones((8, 24, 12), np.uint32), placement=LIES)
    lines = [
        f"{number} 0 {x * 10} 20 {z * 10} 1 {number - 1 or -1}" for number, (z, x) in enumerate([(5, 9), (5, 10)], 1)
    ]
    (tmp_path / "a.swc").write_text("\n".join(lines))
    report = zoo.evaluate(found, skeletons=tmp_path / "a.swc", voxel_size_nm=(10, 10, 10))
    assert (report.scores["edges"], report.scores["edges_omitted"]) == (1, 0)
    assert report.scores["nerl"] == 1


def test_a_prediction_of_a_region_says_so(tmp_path):
    from support.prediction import make_run

    volume = tmp_path / "image.h5"
    with create_volume(volume, shape=(20, 40, 40), dtype="uint8", channels=None, voxel_size_nm=None) as image:
        image.write(image.whole, np.random.default_rng(0).integers(0, 255, (20, 40, 40)).astype(np.uint8))
    run = make_run(tmp_path / "run")
    inner = Placement(Box((2, 0, 8), (10, 40, 40)), (20, 40, 40))
    for region, lies in (("z=2:10,x=8:40", inner), (None, None)):
        zoo.predict(run, volume, tmp_path / "p.h5", region=region, overwrite=True)
        with open_volume(tmp_path / "p.h5") as predicted:
            assert predicted.placement == lies


def test_a_region_to_decode_is_of_the_volume_that_was_predicted(tmp_path, truth):
    task = affinity_task()
    values = store_values(true_values(PART, task), task=task, dtype=np.dtype("uint8"))
    found = write(tmp_path / "p.h5", values, placement=LIES, task=task, content="probability")
    decode(found, tmp_path / "part.h5", region="z=6:10,x=9:20")
    report = evaluate(tmp_path / "part.h5", truth)
    assert report.region == ((6, 10), (0, 24), (9, 20))
    assert report.scores["rand_precision"] > 0.95
    with pytest.raises(VolumeError, match="is of z=4:12,y=0:24,x=8:20, and the region z=2:6,y=0:24,x=8:20 reaches"):
        decode(found, tmp_path / "other.h5", region="z=2:6")
