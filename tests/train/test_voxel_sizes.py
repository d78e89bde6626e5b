"""Training on volumes of any voxel size: each is resampled to what the network sees, as it is read."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from support.naive_window import naive_network
from support.tiny_training import request, write_volume

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.predict import predict
from connectomics_zoo.runs.folder import get_run
from connectomics_zoo.train import train
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.network_grid import NetworkGrid
from connectomics_zoo.volumes.pair_reader import PairReader

NETWORK = [50, 8, 8]


def sized(path, size, *, shape=(20, 60, 70), seed=0):
    """A volume that says its voxel size, None for one that does not."""
    write_volume(path, shape=shape, seed=seed)
    if size is not None:
        with h5py.File(path, "r+") as file:
            for name in ("raw", "mito"):
                file[name].attrs.update({"resolution": size, "units": "nm"})
    return path


@pytest.fixture
def pairs(tmp_path):
    """Volumes of 5 and of 10 nm."""
    return [
        {"image": f"{path}:raw", "label": f"{path}:mito"}
        for path in (sized(tmp_path / "a.h5", [50, 5, 5]), sized(tmp_path / "b.h5", [50, 10, 10], seed=1))
    ]


def changes(pairs, **data):
    given = request(pairs[0]["image"].removesuffix(":raw"), max_steps=2, validate_every=2)
    given["data"] = {
        "train": [{**pair, "region": {"z": [0, 16]}} for pair in pairs],
        "validation": [{**pair, "region": {"z": [16, 20], "y": [7, 60]}} for pair in pairs],
        "network_voxel_size_nm": NETWORK,
        **data,
    }
    return given


def test_volumes_of_several_voxel_sizes_become_patches_of_one(pairs):
    run = resolve_run("mednext-S", changes(pairs))
    assert run.data.voxel_size_nm is None
    assert run.data.network_voxel_nm == (50, 8, 8)
    for pair, ratio in zip(run.data.train, ((1, 8 / 5, 8 / 5), (1, 0.8, 0.8)), strict=True):
        reader = PairReader(pair, run.data)
        assert reader.voxel_size_nm == (50, 8, 8)
        assert tuple(map(float, reader.grid.ratios)) == ratio
        with h5py.File(pair.image.removesuffix(":raw")) as file:
            raw = file["raw"][:16] / np.float32(255)
        found = reader.read_image(reader.box, within=reader.box)[0]
        # What lies behind the region has no part, though in x it is the end of the volume.
        np.testing.assert_allclose(found, naive_network(raw, reader.grid.ratios)[reader.box.slices], atol=1e-6)
    patches = [patch for _, patch in zip(range(8), TrainingPatches(run), strict=False)]
    assert {patch.image.shape for patch in patches} == {(1, 16, 32, 32)}
    # 38 x 44 and 75 x 88 network voxels of a section: each is drawn from as often as it has some.
    readers = [PairReader(pair, run.data) for pair in run.data.train]
    assert [reader.box.shape for reader in readers] == [(16, 38, 44), (16, 75, 88)]


def test_a_patch_shows_the_truth_where_the_image_does(pairs):
    run = resolve_run("mednext-S", changes(pairs))
    for patch in ValidationPatches(run):
        bright = patch.image[0] > 0.5  # means of voxels inside and outside are mixed at edges alone
        known = patch.mask[0]
        agree = (bright == (patch.targets[0] > 0))[known].float().mean()
        assert known.any()
        assert agree > 0.97


def test_validation_scores_every_network_voxel_inside_the_region_once(pairs):
    run = resolve_run("mednext-S", changes(pairs))
    patches = ValidationPatches(run)
    scored = sum(int(patch.mask.sum()) for patch in patches)
    assert scored == sum(reader.box.voxels for reader in patches.readers)
    y = patches.readers[0].box.ranges[1]
    assert y == (5, 38)  # of 1.6 voxels each: from 7 on, and the last one is cut by the end of the volume


@pytest.mark.parametrize("mask", [True, False])
def test_what_is_not_annotated_touches_no_network_voxel_that_is(tmp_path, pairs, mask):
    given = changes(pairs[:1])
    path = pairs[0]["image"].removesuffix(":raw")
    with h5py.File(path, "r+") as file:
        file["mito"][:, 11, :] = 9
        file["mask"] = (file["mito"][...] != 9).astype(np.uint8)
    for pair in given["data"]["train"]:
        if mask:
            pair["mask"] = f"{path}:mask"
        else:
            given["data"]["unlabelled"] = 9
    run = resolve_run("mednext-S", given)
    reader = PairReader(run.data.train[0], run.data)
    truth = reader.read_truth(reader.box, within=reader.box)
    rows = [n for n in range(38) if n * 1.6 < 12 and (n + 1) * 1.6 > 11]
    assert rows == [6, 7]
    assert np.flatnonzero(~truth.annotated.all(axis=(0, 2))).tolist() == rows
    assert not truth.labels[:, rows].any()


def test_a_run_is_trained_and_predicts_volumes_on_their_own_grid(pairs, tmp_path, run_zoo):
    report = train("mednext-S", changes(pairs), output=tmp_path / "run")
    assert 0 <= report.metrics["val/dice"] <= 1
    assert get_run(tmp_path / "run").data.network_voxel_nm == (50, 8, 8)
    assert "50 × 8 × 8 nm (z, y, x)" in run_zoo("show", tmp_path / "run")[1]
    for number, (pair, size) in enumerate(zip(pairs, ((50, 5, 5), (50, 10, 10)), strict=True)):
        out = tmp_path / f"{number}.h5"
        predict(tmp_path / "run", pair["image"], out)
        with open_volume(out) as volume:
            assert (volume.shape, volume.voxel_size_nm) == ((20, 60, 70), size)


def test_several_voxel_sizes_without_one_for_the_network_are_refused_with_the_way_on(pairs):
    text = r"voxel sizes \[\(50.0, 5.0, 5.0\), \(50.0, 10.0, 10.0\)\] nm, and a network sees one: add data"
    with pytest.raises(SpecError, match=text):
        resolve_run("mednext-S", changes(pairs, network_voxel_size_nm=None))


def test_a_volume_that_does_not_say_its_voxel_size_is_asked_for_it(tmp_path):
    path = sized(tmp_path / "v.h5", None)
    pair = {"image": f"{path}:raw", "label": f"{path}:mito"}
    with pytest.raises(VolumeError, match=r"v\.h5:raw: does not say its voxel size, and it is to be resampled to 50"):
        resolve_run("mednext-S", changes([pair]))
    run = resolve_run("mednext-S", changes([pair], voxel_size_nm=[50, 5, 5]))
    assert PairReader(run.data.train[0], run.data).box.shape == (16, 38, 44)


def test_the_networks_voxels_are_said_once(pairs):
    text = r"network_voxel_size_nm \[50.0, 8.0, 8.0\] and downsample \[1, 2, 2\] both say what a network voxel is"
    with pytest.raises(SpecError, match=text):
        resolve_run("mednext-S", changes(pairs, downsample=[1, 2, 2]))


def test_a_region_without_a_whole_network_voxel_is_refused(pairs):
    given = changes(pairs[:1])
    given["data"]["train"][0]["region"] = {"y": [2, 4]}
    with pytest.raises(VolumeError, match=r"region y: \[2, 4\] holds no whole network voxel, which is 1.6 of"):
        resolve_run("mednext-S", given)


def test_affinities_are_trained_on_the_volumes_own_voxels_alone(pairs):
    given = changes(pairs[:1]) | {"task": "affinities-3"}
    with pytest.raises(SpecError, match=r"a\.h5:raw would be resampled .* affinities do not go together with that"):
        resolve_run("mednext-S", given)
    given["data"]["network_voxel_size_nm"] = [50, 5, 5]
    assert resolve_run("mednext-S", given).data.network_voxel_nm == (50, 5, 5)


def test_a_whole_multiple_is_the_same_as_a_factor(pairs):
    by_size = resolve_run("mednext-S", changes(pairs[:1], network_voxel_size_nm=[50, 10, 10]))
    by_factor = resolve_run("mednext-S", changes(pairs[:1], network_voxel_size_nm=None, downsample=[1, 2, 2]))
    assert NetworkGrid((20, 60, 70), (1, 2, 2)) == PairReader(by_size.data.train[0], by_size.data).grid
    for one, other in zip(ValidationPatches(by_size), ValidationPatches(by_factor), strict=True):
        assert all((first == second).all() for first, second in zip(one, other, strict=True))


def test_training_reads_no_grey_value_beside_its_region(pairs):
    given = changes(pairs[1:])
    region = {"z": [0, 16], "y": [8, 48], "x": [4, 44]}
    given["data"]["train"][0]["region"] = region
    with h5py.File(pairs[1]["image"].removesuffix(":raw"), "r+") as file:
        inside = file["raw"][:16, 8:48, 4:44] // 4
        file["raw"][...] = 255
        file["raw"][:16, 8:48, 4:44] = inside
    run = resolve_run("mednext-S", given)
    reader = PairReader(run.data.train[0], run.data)
    assert reader.box.shape == (16, 50, 50)
    assert reader.read_image(reader.box, within=reader.box).max() < 0.22
    assert reader.read_image(reader.box, within=reader.whole).max() > 0.22  # in validation, as in prediction
