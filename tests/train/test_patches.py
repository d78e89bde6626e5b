"""Patches: from every format, inside their region, moved and sampled as the recipe says."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.patches import data_of
from support.tiny_training import make_run, request, write_volume
from support.volume_files import write

from connectomics_zoo.errors import VolumeError
from connectomics_zoo.train import train
from connectomics_zoo.train.inspection import warn_of_labels, warn_of_padding
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.sampling import grid_boxes
from connectomics_zoo.volumes import Box, sampling
from connectomics_zoo.volumes.network_grid import NetworkGrid
from connectomics_zoo.volumes.pair_reader import PairReader, network_box


def take(run, count, *, skip=0):
    return list(itertools.islice(TrainingPatches(run, skip=skip), count))


@pytest.mark.parametrize("name", ["v.h5:raw", "v.tif", "v.zarr:raw"])
def test_patches_come_from_hdf5_tiff_and_zarr(tmp_path, name):
    numbers = np.random.default_rng(0).integers(0, 255, (20, 40, 40), np.uint8)
    write(tmp_path / name, numbers)
    label = write_volume(tmp_path / "label.h5")
    run = make_run({"root": str(tmp_path), "train": [{"image": name, "label": f"{label.name}:mito"}]})
    patch = take(run, 1)[0]
    cube = patch.image.numpy()[0]
    windows = np.lib.stride_tricks.sliding_window_view((numbers / 255).astype(np.float32), (16, 32, 32))
    assert np.isclose(windows, cube, atol=1e-6).all(axis=(3, 4, 5)).any()
    assert patch.targets.shape == (1, 16, 32, 32)


def test_the_same_seed_gives_the_same_patches_and_a_resumed_run_gets_others(tmp_path):
    run = make_run(data_of(write_volume(tmp_path / "v.h5")), augmentation="full")
    first, again, later = take(run, 3), take(run, 3), take(run, 3, skip=7)
    assert all((one.image == other.image).all() for one, other in zip(first, again, strict=True))
    assert not any((one.image == other.image).all() for one, other in zip(first, later, strict=True))


def test_random_patches_lie_at_every_position_up_to_the_last(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(18, 32, 33))
    with h5py.File(path, "r+") as file:
        file["raw"][...] = np.arange(18, dtype=np.uint8)[:, None, None] * 10 + np.arange(33) % 2
    region = {"z": [1, 18]}
    patches = take(make_run(data_of(path, region=region), foreground_probability=0.0), 40)
    corners = {tuple(np.rint(patch.image[0, 0, 0, :2].numpy() * 255).astype(int)) for patch in patches}
    assert corners == {(10, 11), (11, 10), (20, 21), (21, 20)}


def test_foreground_patches_hold_foreground_and_random_ones_mostly_do_not(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(16, 32, 400))
    with h5py.File(path, "r+") as file:
        file["mito"][...] = 0
        file["mito"][8, 16, 200:204] = 1
    sampled = take(make_run(data_of(path), foreground_probability=1.0), 12)
    random = take(make_run(data_of(path), foreground_probability=0.0), 12)
    with_foreground = [sum(bool(patch.targets.any()) for patch in patches) for patches in (sampled, random)]
    assert with_foreground[0] >= 9
    assert with_foreground[1] <= 5


@pytest.mark.parametrize("corner", [0, -1])
def test_a_patch_around_foreground_at_the_border_lies_inside_the_region(tmp_path, corner):
    path = write_volume(tmp_path / "v.h5", shape=(20, 40, 44))
    with h5py.File(path, "r+") as file:
        file["mito"][...] = 0
        file["mito"][corner, corner, corner] = 1
        raw = file["raw"][:16, :32, :32] if corner == 0 else file["raw"][4:, 8:, 12:]
    (patch,) = take(make_run(data_of(path), foreground_probability=1.0), 1)
    assert np.allclose(patch.image[0], raw / np.float32(255), atol=1e-6)


def test_a_volume_without_foreground_still_gives_patches(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["mito"][...] = 0
    assert not take(make_run(data_of(path), foreground_probability=1.0), 1)[0].targets.any()


@pytest.mark.parametrize("shape", [(1, 40, 40), (5, 9, 40), (16, 31, 33)])
def test_a_volume_smaller_than_the_patch_is_reflected(tmp_path, shape):
    path = write_volume(tmp_path / "v.h5", shape=shape)
    patch = take(make_run(data_of(path)), 1)[0]
    assert patch.image.shape == patch.targets.shape == (1, 16, 32, 32)
    with h5py.File(path) as file:
        raw = file["raw"][...]
    inside = patch.image[0, : min(shape[0], 16)].numpy() * 255
    assert set(np.unique(inside.round())) <= set(np.unique(raw))
    if shape[0] == 5:
        assert (patch.image[0, 5:9] == patch.image[0, :4].flip(0)).all()


@pytest.mark.parametrize(("shape", "warned"), [((16, 32, 32), False), ((15, 32, 40), True)])
def test_a_volume_smaller_than_the_patch_is_warned_of(tmp_path, caplog, shape, warned):
    path = write_volume(tmp_path / "v.h5", shape=shape)
    warn_of_padding(make_run(data_of(path)))
    expected = (
        f"{path}:raw has 15 x 32 x 40 network voxels and the patch 16 x 32 x 32: the missing ones are reflections"
    )
    assert (expected in caplog.text) == warned


@pytest.mark.parametrize(
    ("shape", "patch", "advice"),
    [
        ((20, 40, 40), [32, 32, 32], "a smaller training.patch_size needs none"),
        ((15, 40, 40), [16, 32, 32], "which mednext-S needs at least for its smallest patch, 16 x 32 x 32"),
    ],
)
def test_a_smaller_patch_is_advised_only_where_the_network_takes_one(tmp_path, caplog, shape, patch, advice):
    path = write_volume(tmp_path / "v.h5", shape=shape)
    warn_of_padding(make_run(data_of(path), patch_size=patch))
    assert caplog.messages[0].endswith(advice)


def label_warnings(tmp_path, caplog, label, *, task="mito", region=None):
    path = write_volume(tmp_path / "v.h5", shape=(20, 160, 160))
    with h5py.File(path, "r+") as file:
        del file["mito"]
        file["mito"] = label
    warn_of_labels(make_run(data_of(path, region=region), task=task))
    return [record.getMessage().removeprefix(f"{path}:mito ") for record in caplog.records]


def discs(dtype, *, value):
    label = np.zeros((20, 160, 160), dtype)
    label[:, 40:120, 40:120] = value
    return label


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 1), (np.uint8, 255), (np.uint64, 2**40), (bool, True)])
def test_labels_with_foreground_and_background_are_not_warned_of(tmp_path, caplog, dtype, value):
    assert label_warnings(tmp_path, caplog, discs(dtype, value=value)) == []


@pytest.mark.parametrize("task", ["mito", "boundary"])
def test_a_grey_image_as_label_is_refused(tmp_path, caplog, task):
    grey = np.random.default_rng(0).integers(0, 256, (20, 160, 160), np.uint8)
    message = (
        r"v\.h5:mito: looks like a grey image, not like labels \(\d\d+ % of its voxels differ from the next one "
        r"along x\): give a label volume\.$"
    )
    with pytest.raises(VolumeError, match=message):
        label_warnings(tmp_path, caplog, grey, task=task)


@pytest.mark.parametrize(("value", "everywhere"), [(0, 0), (3, 1)])
def test_labels_without_foreground_or_without_background_are_warned_of(tmp_path, caplog, value, everywhere):
    label = discs(np.uint8, value=1)
    label[10:] = value
    assert label_warnings(tmp_path, caplog, label, region={"z": [10, 20]}) == [
        f"makes the target of 'mitochondria' (foreground) {everywhere} in all of its region: check that volume and "
        "region are the right ones"
    ]


def test_of_large_labels_a_few_blocks_are_looked_at(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_BLOCKS", 5)
    (message,) = label_warnings(tmp_path, caplog, discs(np.uint8, value=0))
    assert "(foreground) 0 in all of the 5 of 9 blocks that were looked at: check" in message


def test_training_looks_at_the_labels_first(tmp_path):
    changes = request(write_volume(tmp_path / "v.h5"))
    for pair in (*changes["data"]["train"], *changes["data"]["validation"]):
        pair["label"] = pair["image"]
    with pytest.raises(VolumeError, match=r"v\.h5:raw: looks like a grey image, not like labels \("):
        train("mednext-S", changes, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_training_never_reads_beyond_its_region_however_thin(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:  # what lies beyond is unmistakable
        file["raw"][13:], file["mito"][...] = 255, 0
        file["mito"][13:], file["raw"][:13] = 1, 100
    run = make_run(data_of(path, region={"z": [0, 13]}), foreground_probability=0.5)
    for patch in take(run, 6):
        assert patch.image.max() < 0.5
        assert not patch.targets.any()


def test_the_region_in_network_voxels_holds_whole_blocks_only():
    shape, factors = (20, 40, 41), (1, 4, 4)
    grid = NetworkGrid(shape, factors)
    assert network_box(Box.of_shape(shape), grid) == Box((0, 0, 0), (20, 10, 11))
    assert network_box(Box((3, 1, 8), (7, 39, 41)), grid) == Box((3, 1, 2), (7, 9, 11))
    with pytest.raises(VolumeError, match=r"region y: \[1, 7\] holds no whole block of 4 voxels \(data.downsample\)"):
        network_box(Box((0, 1, 0), (20, 7, 41)), grid)


def test_downsampled_patches_are_means_and_majorities(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(4, 8, 8))
    data = data_of(path, downsample=[1, 2, 2], voxel_size_nm=[50, 4, 4])
    reader = PairReader(make_run(data).data.train[0], make_run(data).data)
    box = Box((1, 0, 1), (3, 4, 4))
    with h5py.File(path) as file:
        raw, mito = file["raw"][1:3, :, 2:], file["mito"][1:3, :, 2:]
    blocks = raw.reshape(2, 4, 2, 3, 2).mean(axis=(2, 4)) / 255
    assert np.allclose(reader.read_image(box, within=reader.whole)[0], blocks, atol=1e-6)
    majority = mito.reshape(2, 4, 2, 3, 2).mean(axis=(2, 4)) > 0.5
    assert np.array_equal(reader.read_label(box, within=reader.whole), majority)
    assert reader.voxel_size_nm == (50, 8, 8)


@st.composite
def regions(draw):
    axes = []
    for _ in range(3):
        length = draw(st.integers(1, 40))
        first = draw(st.integers(0, length - 1))
        axes.append((length, (first, draw(st.integers(first + 1, length))), draw(st.integers(1, 24))))
    return axes


@settings(max_examples=60, deadline=None)
@given(regions())
def test_the_validation_grid_scores_every_voxel_of_the_region_once(axes):
    lengths, ranges, size = zip(*axes, strict=True)
    region, counts = Box.of_ranges(ranges), np.zeros(lengths, int)
    for box, scored in grid_boxes(region, size, Box.of_shape(lengths)):
        counts[scored.slices] += 1
        assert box.shape == size
        assert box.contains(scored)
        assert scored.voxels
        for (first, last), edge, length in zip(box.ranges, size, lengths, strict=True):
            assert edge > length or 0 <= first < last <= length
    assert (counts[region.slices] == 1).all()
    assert counts.sum() == region.voxels


def test_validation_sees_the_image_around_a_thin_region_and_scores_the_region_alone(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    patches = ValidationPatches(make_run(data_of(path, part="validation", region={"z": [16, 20], "y": [0, 30]})))
    assert len(patches) == 2  # along x
    assert sum(patches[index].mask.sum() for index in range(2)) == 4 * 30 * 40
    with h5py.File(path) as file:
        assert np.allclose(patches[0].image[0], file["raw"][4:20, :32, :32] / np.float32(255), atol=1e-6)
    assert patches[0].mask[0, :12].sum() == 0


def test_a_thin_region_lies_in_the_middle_of_the_patch_that_it_is_validated_with(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(30, 40, 40))
    patch = ValidationPatches(make_run(data_of(path, part="validation", region={"z": [13, 17], "y": [4, 36]})))[0]
    with h5py.File(path) as file:
        assert np.allclose(patch.image[0], file["raw"][7:23, 4:36, :32] / np.float32(255), atol=1e-6)
    assert patch.mask[0, 6:10].all()
    assert patch.mask.sum() == 4 * 32 * 32


def test_volumes_of_different_shapes_are_drawn_by_their_size(tmp_path):
    small = write_volume(tmp_path / "small.h5", shape=(4, 32, 32))
    large = write_volume(tmp_path / "large.h5", shape=(16, 64, 64))
    with h5py.File(small, "r+") as file:
        file["raw"][...] = 7
    run = make_run({"train": [*data_of(small)["train"], *data_of(large)["train"]]}, batch_size=4)
    from_small = sum(bool((patch.image < 0.1).all()) for patch in take(run, 100))
    assert 1 <= from_small <= 20
