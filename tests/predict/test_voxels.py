"""Volumes of any voxel size are resampled to what the network sees, and the prediction comes back on their own grid."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from support.naive_window import naive_network
from support.prediction import grey, make_run, write
from support.volume_files import read_all

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.phantom.run import make_phantom
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.predict.request import Request
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import open_volume

SIZE = (30.0, 5.0, 6.0)
SHAPE = (20, 75, 52)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "image.h5", grey(SHAPE), voxel_size_nm=SIZE)


@pytest.fixture(scope="module")
def whole(run, image, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole.h5"
    assert predict(run, image, out, dtype="float32").blocks == 1
    return read_all(out)


def test_it_is_what_the_network_says_of_the_resampled_volume_interpolated_back(run, image, whole, tmp_path):
    ratios = (1, Fraction(8, 5), Fraction(4, 3))
    small = naive_network(grey(SHAPE) / np.float32(255), ratios).astype(np.float32)
    predict(run, write(tmp_path / "small.h5", small), tmp_path / "small_out.h5", dtype="float32")
    expected = read_all(tmp_path / "small_out.h5")
    for axis in (1, 2):
        centres = (np.arange(expected.shape[axis]) + 0.5) * float(ratios[axis]) - 0.5
        voxels = np.arange(SHAPE[axis])
        expected = np.apply_along_axis(lambda row, c=centres, v=voxels: np.interp(v, c, row), axis, expected)
    assert whole.shape == SHAPE
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_it_says_so_once_and_the_output_has_the_volumes_own_voxels(run, image, tmp_path, caplog):
    report = predict(run, image, tmp_path / "out.h5")
    assert [text for text in caplog.messages if "nm" in text] == [
        f"{image}:main has voxels of 30 x 5 x 6 nm (z, y, x) and is resampled to the 30 x 8 x 8 nm that tiny sees, and "
        "its prediction back"
    ]
    assert report.resampled_to_nm == (30, 8, 8)
    assert report.voxel_size_nm == SIZE
    with open_volume(tmp_path / "out.h5") as out:
        assert (out.shape, out.voxel_size_nm) == (SHAPE, SIZE)


@pytest.mark.parametrize("name", ["out.h5", "out.zarr"])
def test_blocks_shares_regions_and_masks_give_what_one_block_gives(run, image, whole, tmp_path, monkeypatch, name):
    region = "z=3:17,y=20:61,x=7:52"
    predict(run, image, tmp_path / f"part_{name}", region=region, dtype="float32")
    part = (slice(3, 17), slice(20, 61), slice(7, 52))
    assert np.array_equal(read_all(tmp_path / f"part_{name}"), whole[part])
    for key, value in {"CHUNK_EDGE": 16, "SHARD_EDGES": (16, 32, 32), "BLOCK_WINDOWS": 18}.items():
        monkeypatch.setattr(plan, key, value)
    for share in range(2):
        report = predict(run, image, tmp_path / name, dtype="float32", shard=f"{share}/2")
    assert report.complete
    assert report.blocks > 4
    assert np.array_equal(read_all(tmp_path / name), whole)
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 10:30, 33:40] = 1
    predict(run, image, tmp_path / f"masked_{name}", mask=write(tmp_path / "mask.h5", mask), dtype="float32")
    assert np.array_equal(read_all(tmp_path / f"masked_{name}"), np.where(mask, whole, 0))


def test_shipped_weights_find_the_same_in_a_phantom_of_other_voxels(tmp_path):
    size = 4.0
    made = make_phantom(shape=(16, 256, 256), seed=0, voxel_size_nm=(50, 4.6, 4.6))
    places = (np.arange(round(256 * 4.6 / size)) + 0.5) * size / 4.6 - 0.5
    plane = np.meshgrid(places, places, indexing="ij")
    scores = []
    for edge in (4.6, size):
        grey_values, truth = made.image, made.mitochondria > 0
        if edge == size:
            shown = [map_coordinates(one.astype(float), plane, order=1, mode="nearest") for one in grey_values]
            grey_values = np.rint(shown).astype(np.uint8)
            truth = np.stack([map_coordinates(one, plane, order=0, mode="nearest") for one in truth])
        image = write(tmp_path / f"{edge}.h5", grey_values, voxel_size_nm=(50, edge, edge))
        predict("mednext-S.vnc-mito", image, tmp_path / f"{edge}_out.h5", output="label")
        found = read_all(tmp_path / f"{edge}_out.h5") > 0
        scores.append(2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth)))
    assert scores[0] > 0.6
    assert abs(scores[1] - scores[0]) < 0.02


def test_labels_are_on_the_volumes_own_grid(run, image, whole, tmp_path):
    predict(run, image, tmp_path / "labels.h5", output="label")
    np.testing.assert_array_equal(read_all(tmp_path / "labels.h5"), whole > 0.5)


def test_a_plan_counts_the_windows_of_the_resampled_volume(run, image, tmp_path, run_zoo):
    report = predict(run, image, tmp_path / "out.h5")
    code, out, _ = run_zoo("plan", run, image, "--voxels-per-second", "1e6", "--json")
    assert code == 0
    assert f'"windows": {report.windows}' in out


@pytest.mark.parametrize("size", [(30.0, 8.0, 8.0), (32.0, 7.5, 8.5), None])
def test_volumes_with_about_the_voxels_of_training_are_taken_as_they_are(run, tmp_path, size, caplog):
    predict(run, write(tmp_path / "plain.h5", grey(SHAPE)), tmp_path / "plain_out.h5", dtype="float32")
    image = write(tmp_path / "image.h5", grey(SHAPE), voxel_size_nm=size)
    report = predict(run, image, tmp_path / "out.h5", dtype="float32")
    assert report.resampled_to_nm is None
    assert "resampled" not in caplog.text
    assert np.array_equal(read_all(tmp_path / "out.h5"), read_all(tmp_path / "plain_out.h5"))


def test_weights_that_were_trained_on_means_of_voxels_take_volumes_of_other_voxels(tmp_path):
    folder = make_run(tmp_path / "run", data={"voxel_size_nm": (30.0, 4.0, 4.0), "downsample": (1, 2, 2)})
    fine = make_run(tmp_path / "fine", data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    outs = []
    for number, run in enumerate((folder, fine)):
        outs.append(tmp_path / f"{number}.h5")
        predict(run, write(tmp_path / "i.h5", grey(SHAPE), voxel_size_nm=SIZE), outs[-1], dtype="float32")
        (tmp_path / "i.h5").unlink()
    assert np.array_equal(*map(read_all, outs))  # both see 8 nm


@pytest.mark.parametrize("size", [(30.0, 3.0, 3.0), (30.0, 17.0, 17.0)])
def test_voxels_beyond_a_factor_of_2_from_those_of_training_are_warned_of(run, tmp_path, size, caplog):
    predict(run, write(tmp_path / "i.h5", grey((16, 32, 32)), voxel_size_nm=size), tmp_path / "out.h5")
    assert "are more than 2 times as large or as small as those that tiny was trained on (30 x 8 x 8 nm)" in caplog.text


def test_runs_of_volumes_of_several_sizes_warn_of_larger_voxels_alone(tmp_path, caplog):
    run = make_run(tmp_path / "run", data={"network_voxel_size_nm": (30.0, 8.0, 8.0)})
    for size, warned in ((2.0, False), (15.0, False), (17.0, True)):
        caplog.clear()
        image = write(tmp_path / f"{size}.h5", grey((16, 32, 32)), voxel_size_nm=(30.0, size, size))
        assert predict(run, image, tmp_path / f"{size}_out.h5").resampled_to_nm == (30, 8, 8)
        assert ("more than 2 times" in caplog.text) == warned


def test_a_voxel_size_that_the_file_does_not_say_is_given_or_asked_for(tmp_path, run_zoo):
    run = make_run(tmp_path / "run", data={"network_voxel_size_nm": (30.0, 8.0, 8.0)})
    plain = write(tmp_path / "plain.h5", grey(SHAPE))
    with pytest.raises(
        VolumeError, match=r"plain\.h5:main: does not say its voxel size, and tiny sees voxels of 30 x 8"
    ):
        predict(run, plain, tmp_path / "out.h5")
    code, _, err = run_zoo(
        "predict", run, plain, tmp_path / "out.h5", "--voxel-size-nm", "30,5,6", "--dtype", "float32"
    )
    assert code == 0, err
    image = write(tmp_path / "image.h5", grey(SHAPE), voxel_size_nm=SIZE)
    predict(run, image, tmp_path / "said.h5", dtype="float32")
    assert np.array_equal(read_all(tmp_path / "out.h5"), read_all(tmp_path / "said.h5"))
    with open_volume(tmp_path / "out.h5") as out:
        assert out.voxel_size_nm == SIZE
    with pytest.raises(
        VolumeError, match=r"says that its voxels are \(30, 5, 6\) nm, and voxel_size_nm is \(30, 5, 5\)"
    ):
        predict(run, image, tmp_path / "other.h5", voxel_size_nm=(30, 5, 5))


def test_a_worker_elsewhere_is_told_the_voxel_size(run, image):
    asked = {"run": str(run), "volume": str(image), "out": "/o.h5", "voxel_size_nm": (30.0, 5.0, 6.0)}
    rest = dict.fromkeys(("window", "overlap", "views", "merge", "intensity_range", "region", "mask"))
    request = Request(
        **asked,
        **rest,
        device="cpu",
        engine="torch",
        precision="auto",
        batch_size=1,
        output="probability",
        dtype="uint8",
        frozen=False,
    )
    assert Request.of(request.portable()) == request


def test_affinities_are_not_resampled_since_their_offsets_are_in_voxels(tmp_path, image):
    run = make_run(tmp_path / "run", task=get_task("affinities-3"), data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    with pytest.raises(
        VolumeError, match=r"voxels of 30 x 5 x 6 nm .* affinities of tiny .* 30 x 8 x 8 nm, so that their"
    ):
        predict(run, image, tmp_path / "out.h5")


def test_views_that_turn_look_at_the_networks_voxels(run, tmp_path):
    image = write(tmp_path / "image.h5", grey((16, 32, 32)), voxel_size_nm=SIZE)
    predict(run, image, tmp_path / "out.h5", views="flips_and_turns")
    flat = make_run(tmp_path / "flat", data={"network_voxel_size_nm": (30.0, 8.0, 16.0)})
    with pytest.raises(SpecError, match=r"the network's are 8 x 16 nm \(y, x\): give views flips"):
        predict(flat, image, tmp_path / "out2.h5", views="flips_and_turns")


def test_a_network_of_two_dimensions_sees_sections_however_thick(tmp_path):
    data = {"voxel_size_nm": (30.0, 8.0, 8.0)}
    run = make_run(tmp_path / "run", arch={"spatial_dims": 2}, window=(32, 32), data=data)
    image = write(tmp_path / "image.h5", grey((5, 40, 40)), voxel_size_nm=(50.0, 5.0, 5.0))
    predict(run, image, tmp_path / "all.h5", dtype="float32")
    one = write(tmp_path / "one.h5", grey((5, 40, 40))[2:3], voxel_size_nm=(30.0, 5.0, 5.0))
    predict(run, one, tmp_path / "third.h5", dtype="float32")
    np.testing.assert_allclose(read_all(tmp_path / "all.h5")[2:3], read_all(tmp_path / "third.h5"), atol=1e-6)
