"""Patches at another scale: everything in them larger or smaller, at the same place, and read instead of reflected."""

from __future__ import annotations

import itertools
import math

import h5py
import numpy as np
import pytest
from support.patches import data_of
from support.tiny_training import make_run, write_volume

from connectomics_zoo.errors import SpecError
from connectomics_zoo.schema.training import TrainingSpec
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.train.patches import TrainingPatches

ALWAYS = {"preset": "none", "rescale": 1.0, "scale_range": [0.5, 2.0]}


def ramp(path, *, shape=(16, 160, 160)):
    """A volume whose grey values rise along x by one a voxel, with labels from the middle of x on."""
    write_volume(path, shape=shape)
    with h5py.File(path, "r+") as file:
        file["raw"][...] = np.arange(shape[2])
        file["mito"][...] = np.arange(shape[2]) >= 80
    return path


def run_of(data, *, augmentation, **training):
    run = make_run(data, **training)
    recipe = run.training.model_dump(mode="json") | {"augmentation": augmentation}
    return run.model_copy(update={"training": TrainingSpec.model_validate(recipe)})


def patches(path, count=60, *, augmentation=ALWAYS, region=None, **fields):
    data = data_of(path, region=region, **fields)
    return list(itertools.islice(TrainingPatches(run_of(data, augmentation=augmentation)), count))


def slopes(found):
    """Grey values a voxel along x, in the middle of each patch."""
    rows = np.stack([patch.image[0, 8, 16].numpy() * 255 for patch in found])
    return np.diff(rows, axis=1)


def test_things_are_larger_or_smaller_and_twice_is_as_likely_as_half(tmp_path):
    steps = slopes(patches(ramp(tmp_path / "v.h5"), 200))
    lengths = steps[:, 4:-4].mean(axis=1)
    assert (steps > 0).all()  # a ramp without a turn: no reflection
    # The mean over 1.5 voxels, one of which is cut, lies up to an eighth of a voxel beside that of a ramp.
    assert np.abs(steps[:, 4:-4] - lengths[:, None]).max() < 0.26
    assert 0.5 <= lengths.min() < 0.6
    assert 1.8 < lengths.max() <= 2.0
    assert abs(np.log(lengths).mean()) < 0.1
    assert np.mean(np.abs(np.log(lengths)) < math.log(2) / 2) == pytest.approx(0.5, abs=0.1)


def test_labels_move_with_the_image(tmp_path):
    seen = 0
    for patch in patches(ramp(tmp_path / "v.h5"), 80):
        grey, target = patch.image[0] * 255, patch.targets[0]
        assert (target[grey >= 81] == 1).all()
        assert (target[grey <= 78] == 0).all()
        seen += 0 < target.mean() < 1
    assert seen > 10


def test_sections_stay_where_voxels_are_not_isotropic_and_shrink_where_they_are(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(64, 80, 80))
    with h5py.File(path, "r+") as file:
        file["raw"][...] = 2 * np.arange(64)[:, None, None]
    for size, moves in (([50, 4, 4], False), ([8, 8, 8], True)):
        steps = np.stack(
            [np.diff(patch.image[0, :, 16, 16].numpy() * 255) for patch in patches(path, 20, voxel_size_nm=size)]
        )[:, 3:-3]
        assert np.allclose(steps, 2, atol=1e-3) != moves


def test_no_more_is_read_than_the_region_has(tmp_path):
    path = ramp(tmp_path / "v.h5", shape=(16, 48, 48))
    with h5py.File(path, "r+") as file:
        file["raw"][:, :, 40:] = 255
    found = patches(path, 40, region={"x": [0, 40]})
    lengths = slopes(found)[:, 4:-4].mean(axis=1)
    assert lengths.max() == pytest.approx(40 / 32, rel=0.03)
    assert max(float(patch.image.max()) for patch in found) * 255 < 41


def test_patches_without_it_are_those_of_before(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    plain = patches(path, 5, augmentation="full")
    none = patches(path, 5, augmentation={"preset": "full", "rescale": 0.0, "scale_range": [0.5, 2.0]})
    assert all((one.image == other.image).all() for one, other in zip(plain, none, strict=True))


def test_a_foreground_patch_still_has_its_foreground(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(16, 80, 80))
    with h5py.File(path, "r+") as file:
        file["mito"][...] = 0
        file["mito"][:, 35:41, 38:44] = 1
    run = run_of(data_of(path), augmentation=ALWAYS, foreground_probability=1.0)
    assert all(patch.targets.any() for patch in itertools.islice(TrainingPatches(run), 30))


@pytest.mark.parametrize("scale_range", [[1.1, 2.0], [0.5, 0.9], [0.1, 2], [0.5, 5]])
def test_a_range_that_does_not_hold_1_is_refused(scale_range):
    recipe = {"patch_size": [16, 32, 32], "augmentation": {"preset": "full", "scale_range": scale_range}}
    with pytest.raises(SpecError, match=r"augmentation\.scale_range\[[01]\]: .*(less|greater) than or equal to"):
        validate(TrainingSpec, recipe, source="training")
