"""Training of networks with a context: patches lie in their region, the image around them is seen and not scored."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch
from support.patches import data_of
from support.tiny_training import make_run, request, write_volume
from support.valid_network import ARCH, CONTEXT, cropped, valid_spec

from connectomics_zoo.errors import InputSizeError
from connectomics_zoo.fit.memory import training_bytes
from connectomics_zoo.predict import predict
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.tasks.losses import supervised_losses, task_loss
from connectomics_zoo.train import train
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.volumes import open_volume

PATCH = [8, 16, 16]  # of which (4, 8, 8) are trained on


def valid_run(path, *, part="train", region=None, **training):
    run = make_run(data_of(path, part=part, region=region), **{"patch_size": PATCH, **training})
    return run.model_copy(update={"model": valid_spec()})


def reflected(values, around):
    return np.pad(values, around, mode="reflect")


def test_patches_lie_in_their_region_and_see_its_reflection_around_it(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(9, 24, 20))
    with h5py.File(path) as file:
        image, label = file["raw"][2:8] / np.float32(255), file["mito"][2:8]
    padded = reflected(image, [(more, more) for more in CONTEXT])
    seen = np.lib.stride_tricks.sliding_window_view(padded, PATCH)
    starts = set()
    for patch in itertools.islice(TrainingPatches(valid_run(path, region={"z": [2, 8]})), 20):
        assert patch.image.shape == (1, *PATCH)
        (corner,) = np.argwhere(np.isclose(seen, patch.image[0].numpy(), atol=1e-6).all(axis=(3, 4, 5))).tolist()
        z, y, x = corner
        assert np.array_equal(patch.targets[0], label[z : z + 4, y : y + 8, x : x + 8])
        assert patch.mask.shape == patch.targets.shape
        starts.add(z)
    assert starts == {0, 1, 2}


def test_augmentation_moves_the_image_and_what_is_trained_on_together(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(12, 32, 32))
    with h5py.File(path, "r+") as file:
        file["raw"][...] = file["mito"][...] * 200
    for patch in itertools.islice(TrainingPatches(valid_run(path, augmentation="flips")), 8):
        assert np.array_equal(cropped(patch.image)[0] > 0.5, patch.targets[0] > 0.5)


def test_validation_scores_every_voxel_of_its_region_once_and_sees_the_volume_around_it(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(12, 24, 20))
    patches = ValidationPatches(valid_run(path, part="validation", region={"z": [5, 11], "y": [3, 23]}))
    with h5py.File(path) as file:
        image = reflected(file["raw"][...] / np.float32(255), [(more, more) for more in CONTEXT])
    for (_, given, _), patch in zip(patches.items, map(patches.__getitem__, range(len(patches))), strict=True):
        z, y, x = given.start
        np.testing.assert_allclose(patch.image[0], image[z : z + 8, y : y + 16, x : x + 16], atol=1e-6)
    assert sum(int(patches[index].mask.sum()) for index in range(len(patches))) == 6 * 20 * 20


def test_a_run_with_a_context_trains_validates_and_predicts(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(20, 24, 24))
    asked = request(path, patch_size=PATCH, max_steps=2)
    report = train("cellmap-fly", {**asked, "arch": ARCH}, output=tmp_path / "run", device="cpu")
    assert set(report.metrics) >= {"val/dice"}
    predict(report.folder, f"{path}:raw", tmp_path / "out.h5")
    with open_volume(tmp_path / "out.h5") as volume:
        assert volume.shape == (20, 24, 24)


def test_the_loss_is_that_of_what_the_network_says_something_of():
    model, task = valid_spec(), get_task("mito")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 1, 4, 8, 8), generator=generator)
    targets = (torch.rand((1, 1, 8, 16, 16), generator=generator) > 0.5).float()
    known = torch.rand((1, 1, 8, 16, 16), generator=generator) > 0.3
    found = supervised_losses(logits, targets, known, model=model, task=task)["loss"]
    expected = task_loss(logits, cropped(targets), cropped(known), task=task)
    assert torch.equal(found, expected)
    assert torch.equal(
        supervised_losses(logits, cropped(targets), cropped(known), model=model, task=task)["loss"], found
    )
    with pytest.raises(InputSizeError, match=r"says something of \[4, 8, 8\] voxels and the targets have \[8, 16, 8\]"):
        supervised_losses(logits, targets[..., :8], model=model, task=task)


def test_memory_is_counted_with_targets_as_large_as_the_output():
    spec = valid_spec()
    counted = training_bytes(spec, (8, 16, 16), batch=1, precision="32-true", where="cuda", task=get_task("mito"))
    alone = training_bytes(spec, (8, 16, 16), batch=1, precision="32-true", where="cuda")
    assert 0 < counted.kept <= 2 * alone.kept
