"""Fine-tuning that forgets nothing: frozen weights, two learning rates, and the first weights as a teacher."""

from __future__ import annotations

import shutil

import h5py
import pytest
import torch
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import SpecError, WeightsError
from connectomics_zoo.network.build import build
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, LOAD_REPORT_FILE, get_run
from connectomics_zoo.runs.logs import read_series
from connectomics_zoo.train import train
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.weights.storage import read_weights, write_weights
from connectomics_zoo.weights.transfer import Roles

FAST = {"learning_rate": 1e-3, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a run of the task `mito`, of two steps."""
    folder = tmp_path_factory.mktemp("first")
    path = write_volume(folder / "v.h5")
    return train("mednext-S", request(path, max_steps=2), output=folder / "run", device="cpu").folder


@pytest.fixture
def volume(tmp_path):
    """A volume of which one half is not annotated: 255."""
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        file["mito"][:, :, 20:] = 255
    return path


def changes_of(volume, source, *, task="mito", unlabelled=255, **training):
    changes = request(volume, **({"max_steps": 2, "augmentation": "none"} | training)) | {"task": task}
    changes["data"] |= {"unlabelled": unlabelled, "validation": []}
    return changes | ({} if source is None else {"init_from": str(source)})


def fine_tune(volume, source, folder, *, progress=None, **changes):
    changes = changes_of(volume, source, **changes)
    return train("mednext-S", changes, output=folder, device="cpu", progress=progress).folder


def trained(folder):
    state = torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


def equal(some, others):
    assert some.keys() == others.keys()
    return all(torch.equal(value, others[name]) for name, value in some.items())


def stop_at(step):
    def progress(state):
        if state.done == step:
            raise KeyboardInterrupt

    return progress


# Frozen weights -----------------------------------------------------------------------------------------------------


def test_only_heads_are_trained_and_all_else_stays_bit_equal(first, volume, tmp_path):
    folder = fine_tune(volume, first, tmp_path / "run", freeze="all-but-heads", ema_decay=0.5, weight_decay=0.1)
    before = read_weights(first / "model.safetensors")
    heads = {name for name in before if ".conv_out." in name}
    assert len(heads) == 10
    for after in (trained(folder), read_weights(folder / "model.safetensors")):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == heads


def test_statistics_of_norms_in_frozen_parts_stay_and_those_of_a_head_move():
    run = make_run({}, model="monai_unet", freeze="all-but-heads")
    module = SegmentationModule(run, build(run.model, deep_supervision=True)).train()
    before = {name: value.clone() for name, value in module.network.named_buffers()}
    module(torch.rand(2, 1, 32, 32, 32))
    moved = {name for name, value in module.network.named_buffers() if not torch.equal(value, before[name])}
    head = "model.2.0.adn.N"
    assert moved == {f"{head}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert len(before) > 10 * len(moved)


def test_a_network_without_a_tensor_for_its_channels_has_no_heads_to_train_alone(volume, tmp_path, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.train.freezing.find_roles", lambda _: Roles(*[frozenset()] * 3))
    with pytest.raises(SpecError, match=r"mednext-S \(builder 'mednext'\) .* its heads are not known .* leave it out"):
        fine_tune(volume, None, tmp_path / "run", freeze="all-but-heads")
    assert not (tmp_path / "run").exists()


# Two learning rates -------------------------------------------------------------------------------------------------


def test_loaded_tensors_move_by_their_own_rate_and_new_ones_by_the_other(first, volume, tmp_path):
    """The first step of AdamW moves every element by its rate, whatever its gradient."""
    for task, fresh in (("mito", 0), ("membrane", 10)):
        start = fine_tune(volume, first, tmp_path / f"still-{task}", task=task, max_steps=1, learning_rate=1e-30)
        moved = fine_tune(
            volume, first, tmp_path / f"moved-{task}", task=task, max_steps=1, loaded_learning_rate=1e-5, **FAST
        )
        before, after = trained(start), trained(moved)
        steps = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
        new = {name for name, step in steps.items() if step > 1e-4}
        assert len(new) == fresh
        assert all(".conv_out." in name for name in new)
        assert all(steps[name] == pytest.approx(1e-3, rel=0.02) for name in new)
        old = [step for name, step in steps.items() if name not in new and step > 0]
        assert len(old) > 50
        assert max(old) == pytest.approx(1e-5, rel=0.02)


def test_the_same_rate_given_twice_changes_nothing(first, volume, tmp_path):
    one = fine_tune(volume, first, tmp_path / "one", task="membrane", **FAST)
    two = fine_tune(volume, first, tmp_path / "two", task="membrane", loaded_learning_rate=1e-3, **FAST)
    assert equal(trained(one), trained(two))


def test_a_stopped_run_with_two_rates_and_a_teacher_goes_on_as_if_it_had_not_been(first, volume, tmp_path):
    recipe = FAST | {"max_steps": 4, "loaded_learning_rate": 1e-4, "distillation": {"weight": 2.0}, "ema_decay": 0.5}
    whole = fine_tune(volume, first, tmp_path / "whole", **recipe)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(volume, first, tmp_path / "run", progress=stop_at(1), **recipe)
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    (tmp_path / "lost" / LOAD_REPORT_FILE).unlink()
    train(tmp_path / "run", resume=True, device="cpu")
    assert equal(trained(tmp_path / "run"), trained(whole))
    assert equal(*(read_weights(folder / "model.safetensors") for folder in (tmp_path / "run", whole)))
    for name in ("train/loss", "train/loss_distillation"):
        assert read_series(tmp_path / "run", name) == read_series(whole, name)
    with pytest.raises(WeightsError, match=r"load_report\.json: says which tensors were loaded, and cannot be read"):
        train(tmp_path / "lost", resume=True, device="cpu")


@pytest.mark.parametrize("name", ["loaded_learning_rate", "distillation"])
def test_what_is_about_first_weights_is_refused_where_there_are_none(volume, name):
    value = {"loaded_learning_rate": 1e-4, "distillation": {"weight": 1.0}}[name]
    with pytest.raises(SpecError, match=rf"training\.{name} is about the weights that a run starts from.* init_from"):
        resolve_run("mednext-S", changes_of(volume, None, **{name: value}))


# The teacher --------------------------------------------------------------------------------------------------------


def distance(folder, first, image):
    """Root mean square between what the network says now and what the first one said, left and right."""
    said = []
    for source in (folder, first):
        network = build(get_run(first).model, deep_supervision=True)
        network.load_state_dict(read_weights(source / "model.safetensors"))
        with torch.no_grad():
            said.append(network.eval()(image).sigmoid())
    squared = (said[0] - said[1]).square()
    return float(squared[..., :16].mean().sqrt()), float(squared[..., 16:].mean().sqrt())


def test_a_teacher_keeps_the_network_where_nothing_is_annotated(first, volume, tmp_path):
    with h5py.File(volume) as file:
        image = torch.from_numpy(file["raw"][:16, :32, 4:36])[None, None] / 255
    recipe = FAST | {"max_steps": 12, "learning_rate": 5e-3}
    free = fine_tune(volume, first, tmp_path / "free", **recipe)
    taught = fine_tune(volume, first, tmp_path / "taught", distillation={"weight": 20.0}, **recipe)
    (free_left, free_right), (left, right) = (distance(folder, first, image) for folder in (free, taught))
    assert right < 0.5 * free_right
    assert left > 0.5 * free_left  # where labels are, they are learned
    losses = dict(read_series(taught, "train/loss_distillation"))
    assert losses[min(losses)] == pytest.approx(0, abs=1e-6)  # in the first step both say the same
    assert max(losses.values()) > 1e-4
    assert not any("teacher" in name for name in torch.load(taught / CHECKPOINT_FILE, weights_only=True)["state_dict"])


def test_a_teacher_that_is_no_longer_the_same_is_missed(first, volume, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(first, source)
    recipe = {"max_steps": 1, "distillation": {"weight": 1.0}}
    folder = fine_tune(volume, source, tmp_path / "run", **recipe)
    network = build(get_run(first).model, deep_supervision=True)
    write_weights(network, source / "model.safetensors")
    with pytest.raises(WeightsError, match=r"are no longer the weights that .*run started from \(their sha256 was"):
        train(folder, {"training": {"max_steps": 2}}, resume=True, device="cpu")
    shutil.copy(first / "model.safetensors", source)
    assert train(folder, {"training": {"max_steps": 2}}, resume=True, device="cpu").steps == 2


def test_a_teacher_has_to_speak_of_the_same_channels(first, volume, tmp_path):
    recipe = {"max_steps": 1, "distillation": {"weight": 1.0}}
    for source, task in ((first, "membrane"), (first / "model.safetensors", "mito")):
        with pytest.raises(SpecError, match=r"training\.distillation needs weights .* has others or does not say it"):
            fine_tune(volume, source, tmp_path / "run", task=task, **recipe)
        assert not (tmp_path / "run").exists()


def test_a_teacher_has_something_to_say_only_where_something_is_not_annotated(first, volume):
    changes = changes_of(volume, first, unlabelled=None, distillation={"weight": 1.0})
    with pytest.raises(SpecError, match=r"about voxels that are not annotated, and all of data\.train are"):
        resolve_run("mednext-S", changes)
