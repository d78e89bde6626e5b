"""Suggested boxes: they hold more errors than others, are apart, and are in none that is annotated."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy import ndimage
from support.prediction import grey, make_run, write

from connectomics_zoo.errors import OutputError, SpecError, VolumeError
from connectomics_zoo.predict import predict
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.suggest import run as suggesting
from connectomics_zoo.suggest import suggest
from connectomics_zoo.suggest.candidates import make_candidates, mean_measures
from connectomics_zoo.volumes import create_volume, open_volume
from connectomics_zoo.volumes.box import Box
from connectomics_zoo.volumes.prediction import StoredPrediction

SHAPE = (12, 96, 80)
VOXELS_NM = (40.0, 8.0, 8.0)
SIZE = (4, 16, 16)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": VOXELS_NM})


def phantom():
    """Blobs, and what five networks say of them that see the same image through noise, which is strong in some parts.

    Returns the truth, the image, and the values of the networks (5, Z, Y, X).
    """
    random = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(random.normal(size=SHAPE), (1, 4, 4))
    truth = truth > np.quantile(truth, 0.8)
    noise = 0.15 + 0.7 * (ndimage.gaussian_filter(random.normal(size=SHAPE), (2, 8, 8)) > 0.01)
    image = truth + noise * ndimage.gaussian_filter(random.normal(size=SHAPE), (0, 1, 1)) * 3
    said = [
        1 / (1 + np.exp(-8 * (image + noise * ndimage.gaussian_filter(random.normal(size=SHAPE), (0, 1, 1)) * 3 - 0.5)))
        for _ in range(5)
    ]
    return truth, np.clip(60 + 100 * image, 0, 255).astype(np.uint8), np.array(said, np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    truth, image, said = phantom()
    place = write(tmp_path_factory.mktemp("scene") / "image.h5", image, voxel_size_nm=VOXELS_NM)
    return truth, place, said


@pytest.fixture
def told(scene, monkeypatch):
    """Have the networks of the phantom predict, and return what `predict` was told."""
    said = scene[2]
    calls = []

    def fake(runs, volume, out, **options):
        calls.append({"runs": runs, "out": out, **options})
        report = predict(runs, volume, out.with_name("real.zarr"), region="z=0:1,y=0:8,x=0:8", device="cpu")
        task = open_volume(out.with_name("real.zarr")).stored().task
        stored = StoredPrediction("probability", task)
        values = {out: (said.mean(axis=0), stored), options["spread"]: (said.std(axis=0), StoredPrediction())}
        for path, (array, what) in values.items():
            if path is None:
                continue
            with create_volume(
                path, shape=SHAPE, dtype=np.uint8, channels=None, voxel_size_nm=VOXELS_NM, stored=what
            ) as made:
                made.write(made.whole, np.rint(255 * array).astype(np.uint8))
        return report

    monkeypatch.setattr(suggesting, "predict", fake)
    return calls


def boxes(report):
    return [np.s_[slice(*box.z), slice(*box.y), slice(*box.x)] for box in report.suggestions]


@pytest.mark.parametrize("by", ["spread", "doubt"])
def test_suggested_boxes_have_more_errors_than_others(scene, run, told, by):
    truth, image, said = scene
    wrong = (said.mean(axis=0) > 0.5) != truth
    report = suggest(run, image, number=8, size=SIZE, by=by)
    suggested = [wrong[box].mean() for box in boxes(report)]
    random = np.random.default_rng(1)
    sizes = list(zip(SHAPE, SIZE, strict=True))
    starts = [[random.integers(0, length - edge + 1) for length, edge in sizes] for _ in range(300)]
    usual = [wrong[Box.of_shape(SIZE, start=start).slices].mean() for start in starts]
    assert len(suggested) == 8
    assert np.mean(suggested) > 1.4 * np.mean(usual)
    assert min(suggested) > np.median(usual)


def test_suggested_boxes_share_no_voxel_and_spread_out_with_diversity(scene, run, told):
    image = scene[1]

    def distances(diversity):
        report = suggest(run, image, number=10, size=SIZE, diversity=diversity)
        count = np.zeros(SHAPE, int)
        for box in boxes(report):
            assert count[box].shape == SIZE
            count[box] += 1
        assert count.max() == 1
        assert count.sum() == 10 * np.prod(SIZE)
        centres = np.array([box.centre_nm for box in report.suggestions])
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.where(np.eye(10), np.inf, 0)
        return apart.min(axis=1).mean(), report

    near, plain = distances(0)
    far, diverse = distances(0.9)
    assert far > 1.2 * near
    scores = [box.score for box in plain.suggestions]
    assert scores == sorted(scores, reverse=True)
    assert plain.suggestions[0] == diverse.suggestions[0]
    assert np.mean(scores) > np.mean([box.score for box in diverse.suggestions]) > diverse.mean_score


def test_the_score_of_a_box_is_the_mean_spread_in_it_and_its_centre_is_in_the_world(scene, run, told, tmp_path):
    said = scene[2]
    report = suggest(run, scene[1], number=3, size=(5, 17, 30))
    for box, place in zip(report.suggestions, boxes(report), strict=True):
        assert box.score == pytest.approx((np.rint(255 * said.std(axis=0)[place]) / 255).mean(), abs=1e-6)
        middles = [(sum(limits)) / 2 * edge for limits, edge in zip((box.z, box.y, box.x), VOXELS_NM, strict=True)]
        assert box.centre_nm == pytest.approx(middles)


def test_means_over_boxes_are_those_of_numpy_however_the_volume_is_tiled(monkeypatch):
    values = np.random.default_rng(0).random((2, 9, 23, 31))
    region = Box((1, 2, 3), (9, 23, 30))
    for edges in [(32, 256, 256), (2, 5, 3)]:
        monkeypatch.setattr("connectomics_zoo.suggest.candidates.TILE_EDGES", edges)
        candidates = make_candidates(region, (3, 8, 100))
        assert candidates.size == (3, 8, 27)
        seen = np.zeros(values.shape[1:], int)

        def measure(box, seen=seen):
            seen[box.slices] += 1
            return values[(slice(None), *box.slices)]

        means = mean_measures(candidates, measure, advance=lambda done, total: None)
        for number, mean in enumerate(means):
            np.testing.assert_allclose(mean, values[(slice(None), *candidates.box(number).slices)].mean(axis=(1, 2, 3)))
        assert (seen[region.slices] == 1).all()
        assert seen.sum() == region.voxels
    starts = {tuple(start) for start in candidates.starts.tolist()}
    assert {start[1] for start in starts} == {2, 6, 10, 14, 15}


def test_what_is_annotated_is_left_out(scene, run, told, tmp_path, caplog):
    image = scene[1]
    annotated = np.zeros(SHAPE, np.uint8)
    annotated[:, :, :40] = 7
    mask = write(tmp_path / "mask.h5", annotated)
    report = suggest(run, image, number=4, size=SIZE, exclude=mask)
    assert all(box.x[0] >= 40 for box in report.suggestions)
    assert report.annotated > 0
    # So is what the run was trained and validated on, where that is this volume.
    pairs = {
        "train": [{"image": "image.h5", "label": "l.h5", "regions": [{"y": [0, 30]}, {"z": [0, 6], "y": [20, 60]}]}],
        "validation": [{"image": f"{image}:main", "label": "l.h5", "region": {"x": [60, 80]}}],
    }
    data = DataSpec.model_validate({"voxel_size_nm": VOXELS_NM, "root": str(image.parent), **pairs})
    own = make_run(tmp_path / "own", data=data.model_dump())
    for report in (suggest(own, image, number=4, size=SIZE), suggest([run, own], image, number=4, size=SIZE)):
        for box in report.suggestions:
            assert box.y[0] >= 30
            assert box.z[0] >= 6 or box.y[0] >= 60
            assert box.x[1] <= 60
    few = {"train": [{"image": f"{image}", "label": "l.h5"}], "unlabelled": 0}
    suggest(make_run(tmp_path / "few", data=few), image, number=1, size=SIZE)
    assert "give that volume as exclude (--exclude) to leave it out" in caplog.text
    with pytest.raises(SpecError, match="every box of 12 x 96 x 80 voxels has something in it that is annotated"):
        suggest(own, image, size=(99, 99, 99))
    annotated[:] = 1
    with pytest.raises(SpecError, match="every box of 4 x 16 x 16 voxels has something in it that is annotated"):
        suggest(run, image, size=SIZE, exclude=write(tmp_path / "all.h5", annotated))
    with pytest.raises(VolumeError, match="image and mask have the shapes"):
        suggest(run, image, exclude=write(tmp_path / "other.h5", annotated[1:]))


def test_one_view_of_one_network_is_asked_for_its_flips_and_an_ensemble_is_not(scene, run, told):
    suggest(run, scene[1], number=1)
    suggest([run, run], scene[1], number=1)
    suggest(run, scene[1], number=1, by="doubt")
    assert [call["views"] for call in told] == ["flips", None, None]
    assert [call["spread"] is None for call in told] == [False, False, True]


def test_boxes_are_patches_by_default_or_whole_sections(scene, run, told, caplog):
    assert suggest(run, scene[1], number=1).size == (12, 96, 80)  # the patch of the recipe is larger
    report = suggest(run, scene[1], number=20, size="section")
    assert report.size == (1, 96, 80)
    assert sorted(box.z[0] for box in report.suggestions) == list(range(12))
    assert "no more than 12 boxes of that size have room beside each other" in caplog.text


def test_the_folder_has_the_boxes_for_viewers_and_specs(scene, run, told, tmp_path):
    image, out = scene[1], tmp_path / "next"
    report = suggest(run, image, out, number=3, size=SIZE, region=None)
    first = report.suggestions[0]
    rows = list(csv.DictReader((out / "suggested.csv").open()))
    assert [int(rows[0][f"{axis}_{end}"]) for axis in "zyx" for end in ("first", "stop")] == [
        *first.z,
        *first.y,
        *first.x,
    ]
    assert float(rows[0]["score"]) == first.score
    layer = json.loads((out / "neuroglancer.json").read_text())
    assert layer["source"]["transform"]["outputDimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [4e-8, "m"]}
    box = layer["annotations"][0]
    for end, corner in enumerate((box["pointA"], box["pointB"])):
        assert corner == [first.x[end], first.y[end], first.z[end]]
    shapes = list(csv.DictReader((out / "napari.csv").open()))
    assert len(shapes) == 3 * SIZE[0] * 4
    corners = {(float(row["axis-1"]), float(row["axis-2"])) for row in shapes if row["index"] == "0"}
    assert corners == {(y - 0.5, x - 0.5) for y in first.y for x in first.x}
    data = yaml.safe_load((out / "regions.yaml").read_text())["data"]
    checked = DataSpec.model_validate(data)
    assert [tuple(region.model_dump().values()) for region in checked.train[0].regions] == [
        (one.z, one.y, one.x) for one in report.suggestions
    ]
    with pytest.raises(OutputError, match="is a file, and a folder is written"):
        suggest(run, image, image)


def test_what_is_not_possible_is_said(scene, run):
    for options, sentence in [
        ({"number": 0}, "0 boxes are not possible, give 1 or more"),
        ({"by": "luck"}, "by 'luck' is not known, give spread or doubt"),
        ({"diversity": 1.5}, "diversity 1.5 is not possible, give a number from 0 to 1"),
        ({"size": (0, 3, 3)}, r"size \(0, 3, 3\) is not understood, give three whole numbers"),
    ]:
        with pytest.raises(SpecError, match=sentence):
            suggest(run, scene[1], **options)
    with pytest.raises(SpecError, match="the list of references is empty"):
        suggest([], scene[1])


def test_zoo_suggest_predicts_once_and_uses_that_again(run, tmp_path, run_zoo):
    image = write(tmp_path / "image.h5", grey((18, 40, 40)), voxel_size_nm=VOXELS_NM)
    words = ["suggest", run, image, tmp_path / "next", "-n", 3, "--region", "z=2:18,x=4:40", "--device", "cpu"]
    code, printed, said = run_zoo(*words, "--size", "1,16,16")
    assert code == 0, said
    assert "of 256 boxes of 1 x 16 x 16 voxels" in printed
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "next").rglob("*") if "zarr" in str(path)}
    assert made
    code, printed, said = run_zoo(*words, "--size", "section", "--json")
    assert code == 0, said
    report = json.loads(printed)
    assert report["size"] == [1, 40, 36]
    assert all(box["z"][0] >= 2 and box["x"] == [4, 40] for box in report["suggestions"])
    assert {path: path.stat().st_mtime_ns for path in made} == made
    with open_volume(tmp_path / "next" / "spread.zarr") as spread:
        values = spread.read(spread.whole)[report["suggestions"][0]["z"][0] - 2]
    assert report["suggestions"][0]["score"] == pytest.approx(values.mean() / 255, abs=1e-6)
    code, _, said = run_zoo(*words, "--views", "flips_and_turns")
    assert code == 2
    assert "prediction.zarr: exists already" in said


def test_a_network_of_two_dimensions_gets_boxes_of_one_section():
    spec = SimpleNamespace(
        data=DataSpec(voxel_size_nm=(80.0, 8.0, 8.0)),
        model=SimpleNamespace(input=SimpleNamespace(axes="yx", given=lambda size: size)),
        training=SimpleNamespace(patch_size=(32, 64)),
    )
    source = SimpleNamespace(voxel_size_nm=(20.0, 4.0, 4.0), shape=(40, 400, 400))
    assert suggesting._edges(None, spec, source) == (1, 64, 128)
