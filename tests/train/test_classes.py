"""Runs of several classes: their label volumes, what these annotate, and rare classes that are drawn."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from support.tasks import class_task
from support.tiny_training import make_run, request

from connectomics_zoo.errors import SpecError, ZooError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.push.portable import portable_run
from connectomics_zoo.schema.augmentation import AugmentationChanges, augmentation_of
from connectomics_zoo.train.added import with_added
from connectomics_zoo.train.augment import augment
from connectomics_zoo.train.classes import look_for_classes
from connectomics_zoo.train.inspection import warn_of_labels
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.preview import draw_preview
from connectomics_zoo.train.resolve import resolve_run

SHAPE = (20, 40, 40)


def masks():
    """Two masks, one of them of a single voxel, and a volume of ids."""
    generator = np.random.default_rng(1)
    large, ids = (np.repeat(generator.integers(0, top, (20, 40, 10)), 4, axis=2) for top in (2, 4))
    rare = np.zeros(SHAPE, np.uint16)
    rare[18, 3, 37] = 1
    return large.astype(np.uint8), rare, ids


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "v.h5"
    large, rare, ids = masks()
    with h5py.File(path, "w") as file:
        file["raw"] = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
        file["large"], file["rare"], file["ids"] = large, rare, ids
    return path


OVERLAPPING = class_task(
    ("large", {"kind": "foreground", "volume": "large"}),
    ("rare", {"kind": "foreground", "volume": "rare"}),
    ("third", {"kind": "class", "labels": [3], "volume": "ids"}),
)

IDS = class_task(
    ("background", {"kind": "background"}),
    ("one", {"kind": "class", "labels": [1]}),
    ("two", {"kind": "class", "labels": [2]}),
    ("three", {"kind": "class", "labels": [3]}),
    softmax=True,
)


def several(path, names=("large", "rare", "ids"), **fields):
    return {"image": f"{path}:raw", "label": {name: f"{path}:{name}" for name in names}, **fields}


def alone(path, **fields):
    return {"image": f"{path}:raw", "label": f"{path}:ids", **fields}


def run_of(task, *pairs, **training):
    run = make_run({"train": list(pairs), "validation": list(pairs)}, **training)
    return run.model_copy(update={"task": task})


def complete(tmp_path, path, pair, *, task=OVERLAPPING, **training):
    """The run that `zoo train` would make of it."""
    (tmp_path / "task.yaml").write_text(dump_yaml(task.model_dump(mode="json", exclude_none=True)))
    changes = request(path, **training)
    changes["task"] = str(tmp_path / "task.yaml")
    changes["data"] = {"train": [pair]}
    return resolve_run("mednext-S", changes)


# Label volumes ----------------------------------------------------------------------------------------------------


def test_a_patch_has_the_targets_of_every_label_volume(volume):
    large, rare, ids = masks()
    patches = ValidationPatches(run_of(OVERLAPPING, several(volume), patch_size=SHAPE))
    (patch,) = (patches[index] for index in range(len(patches)))
    assert np.array_equal(patch.targets.numpy(), np.stack([large, rare, ids == 3]))
    assert patch.mask.all()


def test_several_label_volumes_are_resampled_each(volume):
    run = run_of(OVERLAPPING, several(volume), patch_size=(20, 20, 20))
    run = run.model_copy(update={"data": run.data.model_copy(update={"downsample": (1, 2, 2)})})
    (patch,) = [ValidationPatches(run)[0]]
    blocks = masks()[0].reshape(20, 20, 2, 20, 2).sum(axis=(2, 4))
    assert np.array_equal(patch.targets[0].numpy(), blocks > 2)


def test_an_unlabelled_voxel_of_one_label_volume_is_known_in_the_others(volume):
    run = run_of(OVERLAPPING, several(volume), patch_size=SHAPE)
    run = run.model_copy(update={"data": run.data.model_copy(update={"unlabelled": 2})})
    patch = ValidationPatches(run)[0]
    assert patch.mask[:2].all()
    assert np.array_equal(patch.mask[2].numpy(), masks()[2] != 2)


@pytest.mark.parametrize("preset", ["flips", "isotropic", "anisotropic"])
def test_several_label_volumes_move_as_each_would_alone(preset):
    spec = augmentation_of(AugmentationChanges(preset=preset))
    image = np.random.default_rng(0).random((1, 16, 24, 24), dtype=np.float32)
    labels = np.random.default_rng(1).integers(0, 9, (2, 16, 24, 24))
    known = labels != 4

    def moved(labels, known, seed):
        size = (8, 8, 8) if preset == "isotropic" else (40, 8, 8)
        return augment(image, labels, known, spec=spec, voxel_size_nm=size, generator=np.random.default_rng(seed))

    for seed in range(6):
        both = moved(labels, known, seed)
        for index in range(2):
            one = moved(labels[index], known[index], seed)
            assert np.array_equal(both.image, one.image)
            assert np.array_equal(both.labels[index], one.labels)
            assert np.array_equal(both.annotated[index], one.annotated)


def test_a_run_of_several_label_volumes_is_portable(volume):
    run = portable_run(run_of(OVERLAPPING, several(volume)))
    assert run.data.train[0].label == {"large": "v.h5:large", "rare": "v.h5:rare", "ids": "v.h5:ids"}


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (OVERLAPPING, {"label": "{v}:large"}, r"several label volumes \(large, rare, ids\).*train\.label\.large=FILE"),
        (IDS, {}, r"label has the volumes large, rare, ids, and the task classes is made of one: give data\.train\.l"),
        (OVERLAPPING, {"annotated": ["larg"]}, r"train\.annotated names 'larg', .* did you mean 'large'"),
        (OVERLAPPING, {"label": {"large": "{v}:large", "rar": "{v}:rare"}}, r"label\.rar is no .* mean 'rare'"),
        (
            OVERLAPPING,
            {"label": {"large": "{v}:large"}},
            r"lacks the volume rare, of which 'rare' is made: .*\.annotated what is",
        ),
        (OVERLAPPING, {"label": {"large": "???", "rare": "{v}:rare", "ids": "{v}:ids"}}, r"add data\.train\.label\.l"),
        (OVERLAPPING, {"label": {"large": "{v}:gone", "rare": "{v}:rare", "ids": "{v}:ids"}}, r"no array 'gone'"),
    ],
)
def test_label_volumes_that_do_not_fit_the_task_are_refused(tmp_path, volume, task, change, message):
    def placed(value):
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return value.replace("{v}", str(volume)) if isinstance(value, str) else value

    with pytest.raises(ZooError, match=message):
        complete(tmp_path, volume, several(volume) | placed(change), task=task)


def test_a_label_volume_is_not_needed_where_its_classes_are_not_annotated(tmp_path, volume):
    run = complete(tmp_path, volume, several(volume, ("ids",), annotated=["third"]))
    patch = next(iter(TrainingPatches(run)))
    assert [bool(channel.any()) for channel in patch.mask] == [False, False, True]


def test_a_volume_that_is_added_may_have_several_label_volumes(volume, monkeypatch):
    monkeypatch.chdir(volume.parent)
    added = with_added({"data": {"root": "/else"}}, ["image=v.h5:raw,label.large=v.h5:large,label.ids=gone.h5:x"], {})
    (pair,) = added["data"]["train"]
    assert pair == {"image": f"{volume}:raw", "label": {"large": f"{volume}:large", "ids": "gone.h5:x"}}


# What is annotated ------------------------------------------------------------------------------------------------


def test_what_a_volume_does_not_annotate_is_masked_out_of_loss_and_score(volume):
    run = run_of(OVERLAPPING, several(volume, annotated=["large", "third"]), patch_size=SHAPE)
    for patch in (next(iter(TrainingPatches(run))), ValidationPatches(run)[0]):
        assert [bool(channel.all()) for channel in patch.mask] == [True, False, True]
        assert not patch.mask[1].any()


def test_in_a_softmax_only_voxels_of_annotated_classes_are_certain(volume):
    patch = ValidationPatches(run_of(IDS, alone(volume, annotated=["one", "two"]), patch_size=SHAPE))[0]
    ids = torch.from_numpy(masks()[2])
    certain, other = (ids == 1) | (ids == 2), ids == 0
    assert torch.equal(patch.mask.all(dim=0), certain)
    assert torch.equal(patch.mask[1], certain | other)
    assert not patch.mask[:, ids == 3].any()


# Classes that are missing, and classes that are rare ---------------------------------------------------------------


def test_a_class_without_a_voxel_in_all_training_data_is_refused(volume):
    run = run_of(OVERLAPPING, several(volume, region={"z": [0, 16]}))
    with pytest.raises(SpecError, match=r"no training volume has a voxel of the class 'rare' \(.*:rare\), and without"):
        look_for_classes(run)


def test_a_class_without_a_voxel_in_one_of_the_volumes_is_warned_of(volume, caplog):
    whole, part = several(volume), several(volume, region={"z": [0, 16]})
    look_for_classes(run_of(OVERLAPPING, whole, part))
    assert caplog.messages[0].endswith(
        ":rare has no voxel of the class 'rare' in its region: if nobody annotated it there, leave it out of annotated"
    )
    assert len(caplog.messages) == 2  # the volume is validated on, too


def test_classes_that_are_there_or_not_annotated_are_not_spoken_of(volume, caplog):
    run = run_of(OVERLAPPING, several(volume), several(volume, region={"z": [0, 16]}, annotated=["large", "third"]))
    warn_of_labels(run)
    look_for_classes(run)
    assert caplog.messages == []


def drawn(run, count=24):
    """In how many of the first patches each channel has a voxel."""
    patches = list(itertools.islice(TrainingPatches(run), count))
    return [sum(bool(patch.targets[channel].any()) for patch in patches) for channel in range(len(run.task.channels))]


def test_balance_draws_every_class_as_often_as_the_others(volume):
    training = {"patch_size": (8, 16, 16), "foreground_probability": 1.0}
    once = drawn(run_of(OVERLAPPING, several(volume), **training))
    balanced = drawn(run_of(OVERLAPPING, several(volume), balance="classes", **training))
    assert once[1] <= 2
    assert 4 <= balanced[1] <= 14


def test_balance_draws_no_class_that_is_not_annotated(volume):
    pair = several(volume, annotated=["large", "third"])
    run = run_of(OVERLAPPING, pair, balance="classes", patch_size=(8, 16, 16), foreground_probability=1.0)
    assert all(not patch.mask[1].any() for patch in itertools.islice(TrainingPatches(run), 8))
    assert drawn(run)[1] <= 2


@pytest.mark.parametrize(
    ("training", "task", "message"),
    [
        ({"balance": "classes"}, "mito", r"balance=classes draws each class .* task mito has one: leave it out"),
        (
            {"balance": "classes", "foreground_probability": 0.0},
            "synapse-polarity",
            r"foreground_probability=0 none is: leave one",
        ),
    ],
)
def test_a_balance_without_effect_is_refused(tmp_path, volume, training, task, message):
    changes = request(volume, **training) | {"task": task, "data": {"train": [alone(volume)]}}
    with pytest.raises(SpecError, match=message):
        resolve_run("mednext-S", changes)


# Scores and pictures ----------------------------------------------------------------------------------------------


def module_with(task, counts):
    """A module that has counted these true positives, false positives, false negatives and true negatives."""
    run = make_run({}).model_copy(update={"task": task})
    module = SegmentationModule(run, torch.nn.Identity())
    module.counts = torch.tensor(counts, dtype=torch.float64)
    return module


def test_the_score_of_a_run_is_the_mean_over_the_classes_with_a_voxel_and_each_has_its_own():
    module = module_with(OVERLAPPING, [[6, 2, 2, 9], [0, 0, 0, 19], [1, 0, 3, 15]])
    scores = module.scores()
    assert scores["dice"] == pytest.approx((0.75 + 0.4) / 2)
    assert scores["iou"] == pytest.approx((0.6 + 0.25) / 2)
    each = {name: score for name, score in scores.items() if name not in OVERLAPPING.metrics}
    assert each == pytest.approx({"dice_large": 0.75, "dice_third": 0.4})


def test_where_no_class_has_a_voxel_the_score_is_of_what_is_known():
    module = module_with(OVERLAPPING, [[0, 0, 0, 9], [0, 5, 0, 4], [0, 0, 0, 0]])
    assert module.scores()["dice"] == 0.5
    assert set(module.scores()) == set(OVERLAPPING.metrics)


def test_the_preview_of_classes_has_a_legend_of_their_colours(volume, tmp_path):
    run = run_of(IDS, alone(volume), patch_size=(8, 16, 16))
    draw_preview(run, tmp_path / "preview.png")
    pixels = np.rint(255 * imread(tmp_path / "preview.png")[..., :3]).reshape(-1, 3)
    for colour in ((86, 180, 233), (240, 228, 66), (0, 158, 115)):
        assert (pixels == colour).all(axis=1).sum() > 50
