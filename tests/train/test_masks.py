"""What is not annotated counts in no loss and no score, from the files to the metrics; and every task trains."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import SpecError, VolumeError
from connectomics_zoo.network.build import build
from connectomics_zoo.push.portable import portable_run
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.scores.scores import balanced_accuracy
from connectomics_zoo.specs.listing import read_task_rows
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.train.data import training_loader
from connectomics_zoo.train.inspection import warn_of_labels
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import TrainingPatches, ValidationPatches
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.train.sampling import ForegroundFinder
from connectomics_zoo.volumes.pair_reader import PairReader

UNLABELLED = 255


def write_neurons(path, *, hidden=None, unlabelled=None):
    """A volume of touching objects; their labels are replaced by `hidden` where the mask says 0, and by `unlabelled`
    in some sections."""
    write_volume(path)
    grid = np.indices((20, 40, 40))
    labels = (1 + grid[0] // 7 + 3 * (grid[1] // 14) + 9 * (grid[2] // 14)).astype(np.uint16)
    labels[:, 12:16] = 0
    mask = np.ones(labels.shape, np.uint8)
    mask[:, :, 5:14] = 0
    with h5py.File(path, "a") as file:
        del file["mito"]
        if hidden is not None:
            labels[mask == 0] = np.random.default_rng(hidden).integers(0, 99, np.count_nonzero(mask == 0))
        if unlabelled is not None:
            labels[3:6] = unlabelled
        file["mito"], file["mask"] = labels, mask
    return path


def data_of(path, *, mask=True, task="mito", **fields):
    names = get_task(task).volumes
    pair = {"image": f"{path}:raw", "label": dict.fromkeys(names, f"{path}:mito") if names else f"{path}:mito"}
    pair |= {"mask": f"{path}:mask"} if mask else {}
    return {"train": [pair], "validation": [pair], "voxel_size_nm": [8, 8, 8], **fields}


def some_batch(run, *, count=2):
    patches = list(itertools.islice(TrainingPatches(run), count))
    return patches, list(map(torch.stack, zip(*patches, strict=True)))


TASKS = [row.name for row in read_task_rows().rows]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_a_step_with_finite_loss_and_gradients(tmp_path, task):
    assert len(TASKS) >= 11
    data = data_of(write_neurons(tmp_path / "v.h5"), task=task)
    run = make_run(data, task=task, augmentation="full", batch_size=2)
    network = build(run.model, deep_supervision=True)
    module = SegmentationModule(run, network)
    batch = next(iter(training_loader(run)))
    assert batch.mask.shape == batch.targets.shape == (2, len(run.task.channels), 16, 32, 32)
    assert 0 < batch.mask.float().mean() < 1
    loss = module.training_step(batch, 0)
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
    assert module.counts[0].sum() == batch.mask[:, 0].sum()
    assert all(0 <= score <= 1 for score in module.scores().values())


@pytest.mark.parametrize("task", ["mito-instance", "affinities-6"])
def test_what_the_mask_hides_changes_neither_loss_nor_score(tmp_path, task):
    results = []
    for seed in (1, 2):
        path = write_neurons(tmp_path / f"{seed}.h5", hidden=seed, unlabelled=UNLABELLED)
        run = make_run(data_of(path, unlabelled=UNLABELLED), task=task, augmentation="flips")
        torch.manual_seed(0)
        module = SegmentationModule(run, build(run.model, deep_supervision=True))
        losses = [module.training_step(batch, 0).item() for batch in itertools.islice(training_loader(run), 2)]
        module.eval()
        with torch.no_grad():
            for patch in map(ValidationPatches(run).__getitem__, range(2)):
                module.validation_step(type(patch)(*(part[None] for part in patch)), 0)
        results.append((losses, module.counts.tolist()))
    assert results[0] == results[1]


def test_without_the_mask_what_it_hid_does_change_the_targets(tmp_path):
    paths = [write_neurons(tmp_path / f"{seed}.h5", hidden=seed) for seed in (1, 2)]
    one, other = (ValidationPatches(make_run(data_of(path, mask=False), task="boundary"))[0] for path in paths)
    assert one.mask.all()
    assert (one.targets != other.targets).any()


def test_mask_and_unlabelled_move_with_the_image(tmp_path):
    path = write_neurons(tmp_path / "v.h5", unlabelled=UNLABELLED)
    with h5py.File(path, "r+") as file:
        file["raw"][...] = np.where((file["mito"][...] == UNLABELLED) | (file["mask"][...] == 0), 200, 100)
    run = make_run(data_of(path, unlabelled=UNLABELLED), augmentation="flips")
    patches, _ = some_batch(run, count=4)
    for patch in patches:
        assert torch.equal(patch.mask, patch.image < 0.5)


def test_validation_scores_what_is_known_in_its_region_alone(tmp_path):
    path = write_neurons(tmp_path / "v.h5")
    data = data_of(path)
    data["validation"] = [{**data["validation"][0], "region": {"z": [4, 8], "x": [0, 20]}}]
    patches = ValidationPatches(make_run(data, task="binary"))
    masks = torch.stack([patches[index].mask for index in range(len(patches))])
    assert masks.sum() == 2 * 4 * 40 * (20 - 9)


def test_a_network_voxel_is_annotated_where_all_of_its_voxels_are(tmp_path):
    path = write_neurons(tmp_path / "v.h5", unlabelled=UNLABELLED)
    run = make_run(data_of(path, unlabelled=UNLABELLED, downsample=[2, 4, 4]))
    reader = PairReader(run.data.train[0], run.data)
    labels, annotated = reader.read_truth(reader.whole, within=reader.whole)
    with h5py.File(path) as file:
        fine = (file["mask"][...] != 0) & (file["mito"][...] != UNLABELLED)
    assert np.array_equal(annotated, fine.reshape(10, 2, 10, 4, 10, 4).all(axis=(1, 3, 5)))
    assert not labels[~annotated].any()
    assert 0 < annotated.mean() < 1


def test_foreground_is_not_looked_for_where_nothing_is_annotated(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["mito"][...] = UNLABELLED
        file["mito"][3, 4, 5] = 7
    run = make_run({**data_of(path, mask=False), "unlabelled": UNLABELLED})
    finder = ForegroundFinder(PairReader(run.data.train[0], run.data), block=(8, 16, 16))
    assert {finder.find(np.random.default_rng(seed)) for seed in range(4)} == {(3, 4, 5)}


# Before training --------------------------------------------------------------------------------------------------


def masked_request(path, mask, **training):
    changes = request(path, **training)
    for pair in (*changes["data"]["train"], *changes["data"]["validation"]):
        pair["mask"] = mask
    return changes


def test_a_mask_that_does_not_fit_is_refused(tmp_path):
    path = write_neurons(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["small"], file["many"] = file["mask"][1:], np.stack([file["mask"][...]] * 2)
    with pytest.raises(VolumeError, match=r"image and mask have the shapes \(20, 40, 40\) and \(19, 40, 40\), and"):
        resolve_run("mednext-S", masked_request(path, f"{path}:small"))
    with pytest.raises(VolumeError, match="the mask has 2 channels, and must have none"):
        resolve_run("mednext-S", masked_request(path, f"{path}:many"))
    with pytest.raises(VolumeError, match="absent"):
        resolve_run("mednext-S", masked_request(path, f"{path}:absent"))
    with pytest.raises(SpecError, match=r"a volume is not given, add data\.train\.mask=FILE:DATASET\."):
        resolve_run("mednext-S", masked_request(path, "???"))
    assert resolve_run("mednext-S", masked_request(path, f"{path}:mask")).data.train[0].mask == f"{path}:mask"


def test_shapes_without_a_voxel_size_are_refused_before_training(tmp_path):
    changes = request(write_neurons(tmp_path / "v.h5")) | {"task": "lsd"}
    with pytest.raises(SpecError, match=r"the voxel size is not known: add data\.voxel_size_nm=\[Z,Y,X\]\."):
        resolve_run("mednext-S", changes)
    changes["data"]["voxel_size_nm"] = [8, 8, 8]
    assert resolve_run("mednext-S", changes).task.name == "lsd"


def test_values_are_checked_where_they_are_annotated_alone(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    document = {
        "schema_version": 1,
        "name": "probability",
        "summary": "A value.",
        "channels": [
            {
                "name": "p",
                "activation": "sigmoid",
                "target": {"kind": "value"},
                "losses": [{"kind": "mse"}],
            }
        ],
        "decode": {"method": "threshold", "threshold": 0.5},
        "metrics": ["dice"],
    }
    with h5py.File(path, "r+") as file:
        values = file["mito"][...] * np.float32(0.75)
        values[2:4] = -1
        del file["mito"]
        file["mito"] = values
    task = tmp_path / "probability.yaml"
    task.write_text(str(document))
    changes = request(path) | {"task": str(task)}
    with pytest.raises(VolumeError, match=r"must lie in 0..1 and lie in -1..-1"):
        resolve_run("mednext-S", changes)
    changes["data"]["unlabelled"] = -1
    (patch,), _ = some_batch(resolve_run("mednext-S", changes), count=1)
    assert set(patch.targets[patch.mask].tolist()) == {0, 0.75}
    assert not patch.mask.all()


CUT_AT_0 = ("binary", "membrane", "mito", "synapse-cleft", "vnc-classes")
"""Tasks that take all labels above 0 for one."""


@pytest.mark.parametrize("task", CUT_AT_0)
def test_objects_where_a_mask_will_do_are_said_in_one_sentence(tmp_path, caplog, task):
    path = write_neurons(tmp_path / "v.h5")
    with h5py.File(path) as file:
        known = np.unique(file["mito"][...][file["mask"][...] != 0])
    warn_of_labels(make_run(data_of(path, task=task), task=task))
    assert set(caplog.messages) == {f"{path}:mito holds {len(known) - 1} labels, and all above 0 count as foreground"}


@pytest.mark.parametrize("task", sorted({*TASKS} - {*CUT_AT_0}))
def test_good_labels_are_not_warned_of(tmp_path, caplog, task):
    warn_of_labels(make_run(data_of(write_neurons(tmp_path / "v.h5"), task=task), task=task))
    assert caplog.messages == []


def test_a_volume_without_an_annotated_voxel_is_refused(tmp_path):
    path = write_neurons(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["mask"][...] = 0
    with pytest.raises(VolumeError, match=r"v\.h5:mito: is annotated nowhere in the part that is used, check"):
        warn_of_labels(make_run(data_of(path)))
    with h5py.File(path, "r+") as file:
        file["mask"][4:5] = 1
    warn_of_labels(make_run(data_of(path)))
    with pytest.raises(VolumeError, match=r"has no network voxel of which all voxels are annotated, downsample less\."):
        warn_of_labels(make_run(data_of(path, downsample=[2, 1, 1])))


# Scores -----------------------------------------------------------------------------------------------------------


def test_balanced_accuracy_is_the_mean_of_the_rates_that_there_are():
    counts = {"true_positive": 3, "false_negative": 1, "true_negative": 1, "false_positive": 1}
    assert balanced_accuracy(**counts) == (0.75 + 0.5) / 2
    assert balanced_accuracy(**{**counts, "true_negative": 0, "false_positive": 0}) == 0.75
    assert balanced_accuracy(**{**counts, "true_positive": 0, "false_negative": 0}) == 0.5
    assert balanced_accuracy(**dict.fromkeys(counts, 0)) == 1


def test_metrics_are_the_mean_over_the_scored_channels():
    module = SegmentationModule(make_run({}, task="lsd"), torch.nn.Identity())
    module.counts[:3] = torch.tensor([[3, 1, 1, 3], [1, 1, 1, 1], [0, 0, 0, 4]])
    module.counts[3:, 1] = 99
    assert module.scores()["balanced_accuracy"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert module.scores()["dice"] == pytest.approx((0.75 + 0.5 + 1) / 3)


def test_the_place_of_a_mask_is_not_given_away_and_none_is_taken_from_elsewhere(tmp_path):
    run = make_run({"train": [{"image": "/a/v.h5:raw", "label": "/a/v.h5:mito", "mask": "/b/m.h5:mask"}]})
    portable = portable_run(run)
    assert portable.data.train[0].mask == "m.h5:mask"
    check_portable(portable, source="it")
    pair = portable.data.train[0].model_copy(update={"mask": "/b/m.h5:mask"})
    strange = portable.model_copy(update={"data": portable.data.model_copy(update={"train": (pair,)})})
    with pytest.raises(SpecError, match=r"it: names the place '/b/m\.h5:mask'"):
        check_portable(strange, source="it")


def test_a_channel_of_which_nothing_is_known_has_no_score(tmp_path):
    run = make_run(data_of(write_neurons(tmp_path / "v.h5"))).model_copy(update={"task": get_task("affinities-3")})
    module = SegmentationModule(run, torch.nn.Identity())
    module.counts[0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    alone = module.scores()
    module.counts[1] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert module.scores() == alone
    assert alone["dice"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"downsample": [1, 2, 2]}}, r"data\.downsample=\[1, 2, 2\] and affinities do not go together"),
        (
            {"training": {"patch_size": [16, 16, 32]}},
            r"'y-27' joins voxels \[0, 27, 0\] \(z, y, x\) apart, which no patch",
        ),
    ],
)
def test_affinities_that_no_patch_holds_or_that_change_their_length_are_refused(tmp_path, changes, message):
    data = data_of(write_neurons(tmp_path / "v.h5"))
    document = {"task": "affinities-12", "data": data, "training": {"patch_size": [16, 32, 32]}}
    for key, value in changes.items():
        document[key] = {**document[key], **value}
    with pytest.raises(SpecError, match=message):
        resolve_run("monai_unet", document)


def test_a_minimum_of_foreground_is_one_of_annotated_foreground(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"] = np.random.default_rng(0).integers(0, 255, (16, 32, 160), np.uint8)
        file["mito"] = np.ones((16, 32, 160), np.uint8)
        file["mask"] = np.repeat(np.arange(160)[None, None] >= 120, 16, axis=0).repeat(32, axis=1).astype(np.uint8)
    run = make_run(data_of(tmp_path / "v.h5"), foreground_minimum=0.5, foreground_probability=0.0)
    patches = itertools.islice(TrainingPatches(run), 10)
    assert all(patch.mask.float().mean() >= 0.5 for patch in patches)
