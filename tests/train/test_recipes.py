"""Recipes: averaged weights, accumulated gradients, early stopping, shares of volumes and a minimum of foreground."""

from __future__ import annotations

import itertools
import json
import math

import h5py
import lightning as L
import numpy as np
import pytest
import torch
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo.errors import SpecError
from connectomics_zoo.runs.checkpoint import has_checkpoint
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, get_run
from connectomics_zoo.runs.logs import read_series
from connectomics_zoo.runs.metrics import read_metrics
from connectomics_zoo.train import train
from connectomics_zoo.train.averaging import AverageWeights
from connectomics_zoo.train.callbacks import KeepWeights
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import TrainingPatches
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.train.sampling import MINIMUM_TRIES
from connectomics_zoo.volumes import Box
from connectomics_zoo.weights.storage import read_weights


@pytest.fixture
def volume(tmp_path):
    return write_volume(tmp_path / "v.h5")


def checkpoint(folder):
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)


def kept(folder):
    return read_weights(folder / "model.safetensors")


def trained(folder):
    state = checkpoint(folder)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


def equal(some, others):
    assert some.keys() == others.keys()
    return all(torch.equal(value, others[name]) for name, value in some.items())


def stop_at(step):
    def progress(state):
        if state.done == step:
            raise KeyboardInterrupt

    return progress


def run_of(volume, folder, *, progress=None, validation=True, **training):
    changes = request(volume, **training)
    if not validation:
        changes["data"]["validation"] = []
    return train("mednext-S", changes, output=folder, device="cpu", progress=progress).folder


def stopped(volume, folder, *, step, **training):
    with pytest.raises(KeyboardInterrupt):
        run_of(volume, folder, progress=stop_at(step), **training)


# Averaged weights ---------------------------------------------------------------------------------------------------


class Recorder(L.Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.weights.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


def test_the_average_is_that_of_all_steps_and_forgets_the_first_ones_fast(volume, tmp_path, monkeypatch):
    recorder = Recorder()
    before = AverageWeights.on_train_batch_end

    def record(self, trainer, pl_module, *args):
        recorder.on_train_batch_end(trainer, pl_module)
        before(self, trainer, pl_module, *args)
        averages.append({name: value.clone() for name, value in self.average.items()})

    start, averages = [], []
    monkeypatch.setattr(
        SegmentationModule,
        "on_train_start",
        lambda self: start.append({name: value.clone() for name, value in self.network.state_dict().items()}),
        raising=False,
    )
    monkeypatch.setattr(AverageWeights, "on_train_batch_end", record)
    # A high rate, so that an average in which the first weights had another share would be another one.
    folder = run_of(volume, tmp_path / "run", ema_decay=0.2, validation=False, learning_rate=0.05)
    assert len(recorder.weights) == len(averages) == 4
    expected = start[0]
    for step, weights in enumerate(recorder.weights):
        decay = min(0.2, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in weights.items()}
        for name, value in averages[step].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    for name, value in kept(folder).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert not equal(kept(folder), trained(folder))


def test_a_step_of_several_batches_is_averaged_once(volume, tmp_path):
    run_of(volume, tmp_path / "run", ema_decay=0.2, validation=False, accumulate=2)
    assert checkpoint(tmp_path / "run")["callbacks"]["AverageWeights"]["updates"] == 4


def test_the_average_is_validated_and_the_weights_go_on(volume, tmp_path, monkeypatch):
    seen = {}
    original = SegmentationModule.validation_step

    def look(self, batch, index):
        seen[self.global_step] = {name: value.clone() for name, value in self.network.state_dict().items()}
        original(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "validation_step", look)
    averaged = run_of(volume, tmp_path / "averaged", ema_decay=0.9)
    assert seen.keys() == {2, 4}
    assert not equal(seen[4], trained(averaged))
    assert equal(seen[json.loads((averaged / "metrics.json").read_text())["step"]], kept(averaged))
    plain = run_of(volume, tmp_path / "plain")
    assert equal(trained(averaged), trained(plain))


@pytest.mark.parametrize("validation", [True, False])
def test_a_resumed_run_averages_as_an_uninterrupted_one(volume, tmp_path, validation):
    whole = run_of(volume, tmp_path / "whole", ema_decay=0.5, max_steps=6, validation=validation)
    stopped(volume, tmp_path / "run", step=3, ema_decay=0.5, max_steps=6, validation=validation)
    train(tmp_path / "run", resume=True, device="cpu")
    assert equal(trained(tmp_path / "run"), trained(whole))
    assert equal(kept(tmp_path / "run"), kept(whole))
    one, two = (checkpoint(folder)["callbacks"]["AverageWeights"] for folder in (tmp_path / "run", whole))
    assert one["updates"] == two["updates"] == 6
    assert equal(one["average"], two["average"])


def test_a_run_that_fails_in_a_validation_goes_on_from_the_state_before_it(volume, tmp_path, monkeypatch):
    whole = run_of(volume, tmp_path / "whole", ema_decay=0.9)

    def stop(self, batch, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentationModule, "validation_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_of(volume, tmp_path / "run", ema_decay=0.9)
    assert not has_checkpoint(tmp_path / "run")
    monkeypatch.undo()
    train(tmp_path / "run", resume=True, device="cpu")
    assert equal(trained(tmp_path / "run"), trained(whole))
    assert equal(kept(tmp_path / "run"), kept(whole))


# Accumulated gradients ----------------------------------------------------------------------------------------------


@pytest.fixture
def bce_task(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text(
        "schema_version: 1\nname: plain\nsummary: Foreground by cross entropy alone.\n"
        "channels: [{name: foreground, activation: sigmoid, target: {kind: foreground}, losses: [{kind: bce}]}]\n"
        "decode: {method: threshold, threshold: 0.5}\nmetrics: [dice]\n"
    )
    return str(path)


def test_two_accumulated_batches_of_one_are_a_batch_of_two(volume, tmp_path, bce_task):
    def weights(**training):
        changes = request(volume, max_steps=2, precision="32-true", **training) | {"task": bce_task}
        return trained(train("mednext-S", changes, output=tmp_path / str(training), device="cpu").folder)

    accumulated, together, single = weights(accumulate=2), weights(batch_size=2), weights()
    # A norm takes away the biases before it: their gradients are noise, which Adam makes as large as the others.
    names = [name for name in accumulated if not name.endswith("conv1.bias")]
    for name in names:
        torch.testing.assert_close(accumulated[name], together[name], rtol=0, atol=1e-5)
    assert max(float((accumulated[name] - single[name]).abs().max()) for name in names) > 1e-4


def test_steps_validations_and_schedules_count_optimiser_steps(volume, tmp_path, monkeypatch):
    seen, batches = [], []
    original = SegmentationModule.training_step

    def count(self, batch, index):
        batches.append(self.optimizers().param_groups[0]["lr"])
        return original(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", count)
    recipe = {"accumulate": 3, "warmup_steps": 2, "schedule": "constant", "learning_rate": 0.01}
    folder = run_of(volume, tmp_path / "run", progress=lambda state: seen.append(state.done), **recipe)
    assert batches == [0.005] * 3 + [0.01] * 9
    assert sorted(set(seen)) == [0, 1, 2, 3, 4]
    assert checkpoint(folder)["global_step"] == 4
    assert [step for step, _ in read_series(folder, "train/loss")] == [0, 1, 2, 3]
    assert [step for step, _ in read_series(folder, "val/dice")] == [1, 3]


ACCUMULATED = {"accumulate": 3, "max_steps": 4, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    """A run of four steps of three batches each, with validations at the second and fourth."""
    folder = tmp_path_factory.mktemp("accumulated")
    return run_of(write_volume(folder / "v.h5"), folder / "run", **ACCUMULATED)


@pytest.mark.parametrize("stop", [1, 2, 5, 8])  # a batch is drawn ahead
def test_a_run_stopped_between_two_batches_of_a_step_is_resumed_as_if_it_had_not_been(
    accumulated, volume, tmp_path, monkeypatch, stop
):
    recipe, whole = ACCUMULATED, accumulated
    original = TrainingPatches._draw
    drawn = []

    def interrupt(self, *args):
        drawn.append(1)
        if len(drawn) > stop:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(TrainingPatches, "_draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_of(volume, tmp_path / "run", **recipe)
    monkeypatch.undo()
    assert train(tmp_path / "run", resume=True, device="cpu").steps == 4
    assert equal(trained(tmp_path / "run"), trained(whole))
    assert equal(kept(tmp_path / "run"), kept(whole))
    for name in ("train/loss", "val/dice"):
        assert read_series(tmp_path / "run", name)[-1] == read_series(whole, name)[-1]


@pytest.mark.parametrize(("key", "value"), [("accumulate", 2), ("freeze", "encoder"), ("loaded_learning_rate", 1e-4)])
def test_what_a_step_and_an_optimiser_are_cannot_change_on_resume(volume, tmp_path, key, value):
    folder = run_of(volume, tmp_path / "run", max_steps=1)
    with pytest.raises(SpecError, match=rf"^training\.{key} is .* and cannot change when a run is resumed"):
        train(folder, {"training": {key: value, "max_steps": 3}}, resume=True, device="cpu")


# Early stopping -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scores(monkeypatch):
    """Let the validations of a run have these scores, and the last one from then on."""
    given = []

    def scores(self):
        index = min(self.global_step // self.run.training.validate_every, len(given)) - 1
        return dict.fromkeys(self.run.task.metrics, given[index])

    monkeypatch.setattr(SegmentationModule, "scores", scores)
    return given


def test_training_ends_when_the_score_gets_no_better_and_says_so_once(volume, tmp_path, scores):
    scores += [0.2, 0.5, 0.5, 0.4, 0.9]
    changes, told = request(volume, max_steps=20, validate_every=1, early_stopping=2), []
    report = train("mednext-S", changes, output=tmp_path / "run", device="cpu", notify=told.append)
    assert report.steps == 4
    assert len(told) == 1
    assert told[0].endswith(
        "run: ended after 4 of 20 steps, dice got no better in 2 validations (training.early_stopping)"
    )
    content = json.loads((report.folder / "metrics.json").read_text())
    assert (content["steps"], content["val/dice"]) == (4, 0.5)
    assert (report.folder / "curve.png").is_file()
    assert checkpoint(report.folder)["global_step"] == 4

    told.clear()
    assert train(report.folder, resume=True, device="cpu", notify=told.append) == report
    assert "ended early, after 2 validations without a better score: give " in told[0]
    more = train(report.folder, {"training": {"early_stopping": 3}}, resume=True, device="cpu")
    assert more.steps == 8
    assert more.metrics["val/dice"] == pytest.approx(0.9)


def test_waiting_goes_on_across_a_resume(volume, tmp_path, scores):
    scores += [0.5, 0.4, 0.3, 0.2]
    recipe = {"max_steps": 20, "validate_every": 2, "early_stopping": 2}
    stopped(volume, tmp_path / "run", step=5, **recipe)
    assert train(tmp_path / "run", resume=True, device="cpu").steps == 6


def test_a_better_score_ends_no_run(volume, tmp_path, scores):
    scores += [0.1, 0.2, 0.3, 0.4]
    told = []
    changes = request(volume, validate_every=1, early_stopping=1)
    assert train("mednext-S", changes, output=tmp_path / "run", device="cpu", notify=told.append).steps == 4
    assert told == []


def test_early_stopping_needs_validations(volume, tmp_path):
    changes = request(volume, early_stopping=2)
    changes["data"]["validation"] = []
    with pytest.raises(SpecError, match="early_stopping=2 compares validations and there are none, add "):
        train("mednext-S", changes, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Schedules ----------------------------------------------------------------------------------------------------------


def test_the_rate_rises_linearly_and_falls_along_a_cosine(volume, monkeypatch):
    run = make_run({}, warmup_steps=2, max_steps=6, learning_rate=0.1, schedule="cosine")
    factor = SegmentationModule(run, torch.nn.Linear(1, 1)).configure_optimizers()["lr_scheduler"]["scheduler"]
    factors = [factor.lr_lambdas[0](step) for step in range(7)]
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5))]
    assert factors == pytest.approx(expected)


def test_a_gradient_is_clipped_to_its_largest_norm(volume, tmp_path, monkeypatch):
    norms = []

    def measure(self, optimizer):
        gradients = [weight.grad.flatten() for weight in self.parameters() if weight.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))

    monkeypatch.setattr(SegmentationModule, "on_before_optimizer_step", lambda self, optimizer: None, raising=False)
    original = SegmentationModule.configure_gradient_clipping

    def clip(self, optimizer, *args, **keywords):
        measure(self, optimizer)
        original(self, optimizer, *args, **keywords)
        measure(self, optimizer)

    monkeypatch.setattr(SegmentationModule, "configure_gradient_clipping", clip)
    run_of(volume, tmp_path / "run", max_steps=1, gradient_clip=0.01)
    before, after = norms
    assert before > 0.02
    assert after == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("model", ["mednext-S", "monai_swin_unetr"])
def test_recomputing_activations_changes_no_weight(volume, tmp_path, model):
    def run(checkpointing):
        changes = request(volume, max_steps=1, validate_every=1)
        small = {"feature_size": 12, "depths": [1] * 4, "num_heads": [1] * 4} if "swin" in model else changes["arch"]
        changes["arch"] = small | {"checkpointing": checkpointing}
        changes["training"]["patch_size"] = [32, 32, 64] if "swin" in model else [16, 32, 32]
        return trained(train(model, changes, output=tmp_path / str(checkpointing), device="cpu").folder)

    plain, recomputed = run(False), run(True)
    for name, value in plain.items():
        torch.testing.assert_close(value, recomputed[name], rtol=1e-4, atol=1e-5)


# Volumes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_volumes(tmp_path):
    """A small and a large volume, the first dark and the second bright."""
    for name, shape, value in (("small", (16, 32, 32), 50), ("large", (32, 64, 64), 200)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["raw"] = np.full(shape, value, np.uint8)
            file["mito"] = np.ones(shape, np.uint8)
    return tmp_path


def pairs(folder, *weights):
    names = zip(("small", "large"), weights, strict=True)
    given = [
        {"image": f"{folder}/{name}.h5:raw", "label": f"{folder}/{name}.h5:mito", "weight": w} for name, w in names
    ]
    return [{key: value for key, value in pair.items() if value is not None} for pair in given]


def bright_share(data, count=200):
    run = make_run({"train": data}, foreground_probability=0.0)
    return np.mean([float(patch.image.mean()) > 0.5 for patch in itertools.islice(TrainingPatches(run), count)])


def test_a_volume_is_drawn_by_its_weight_and_by_its_size_without_one(two_volumes):
    assert bright_share(pairs(two_volumes, None, None)) == pytest.approx(8 / 9, abs=0.08)
    assert bright_share(pairs(two_volumes, 3.0, 1.0)) == pytest.approx(1 / 4, abs=0.1)


def test_weights_are_given_to_all_volumes_or_to_none(two_volumes):
    changes = {"task": "mito", "training": {"patch_size": [16, 32, 32]}}
    with pytest.raises(SpecError, match=r"large\.h5:raw has no weight and other volumes have one, .* all of data\.tr"):
        resolve_run("mednext-S", changes | {"data": {"train": pairs(two_volumes, 1.0, None)}})
    data = {"train": pairs(two_volumes, 1.0, 2.0), "validation": pairs(two_volumes, None, 2.0)}
    with pytest.raises(SpecError, match=r"large\.h5:raw is validated on, as a whole, and its weight has no effect"):
        resolve_run("mednext-S", changes | {"data": data})


def patches(run, count):
    return list(itertools.islice(TrainingPatches(run), count))


def test_patches_with_less_foreground_are_drawn_again_and_always_alike(tmp_path):
    path = write_volume(tmp_path / "v.h5", shape=(16, 128, 128))
    data = {"train": [{"image": f"{path}:raw", "label": f"{path}:mito"}]}
    recipe = {"foreground_probability": 0.0, "augmentation": "none"}
    free, bound = (make_run(data, foreground_minimum=least, **recipe) for least in (0.0, 0.3))
    assert min(float(patch.targets.mean()) for patch in patches(free, 30)) < 0.3
    chosen = patches(bound, 30)
    assert min(float(patch.targets.mean()) for patch in chosen) >= 0.3
    resumed = itertools.islice(TrainingPatches(bound, skip=20), 10)
    assert all(torch.equal(one.image, two.image) for one, two in zip(chosen[20:], resumed, strict=True))


def test_a_minimum_that_no_patch_has_ends_after_its_tries(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "v.h5")
    data = {"train": [{"image": f"{path}:raw", "label": f"{path}:mito"}]}
    drawn = []
    monkeypatch.setattr(
        "connectomics_zoo.train.sampling._random_box",
        lambda region, size, generator: drawn.append(1) or Box.of_shape(size),
    )
    assert len(patches(make_run(data, foreground_minimum=1.0, foreground_probability=0.0), 1)) == 1
    assert len(drawn) == MINIMUM_TRIES


def test_the_recipe_is_kept_in_the_run(volume, tmp_path):
    recipe = {"ema_decay": 0.9, "accumulate": 2, "early_stopping": 5, "foreground_minimum": 0.01, "freeze": "encoder"}
    training = get_run(run_of(volume, tmp_path / "run", max_steps=1, **recipe)).training
    assert {name: value for name, value in training.model_dump().items() if name in recipe} == recipe


@pytest.mark.parametrize(
    ("prediction", "message"),
    [({"window": [16, 32, 48], "views": "flips_and_turns"}, "need a window as high as wide")],
)
def test_views_that_cannot_be_predicted_are_found_before_the_training(tmp_path, prediction, message):
    changes = request(write_volume(tmp_path / "v.h5"))
    with pytest.raises(SpecError, match=message):
        train("mednext-S", {**changes, "prediction": prediction}, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# Which weights are kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 4)])
def test_the_weights_that_are_kept_are_those_of_the_best_validation_or_the_last(
    volume, tmp_path, monkeypatch, scores, keep, step
):
    recorder = Recorder()
    before = KeepWeights.on_train_batch_end

    def record(self, trainer, pl_module, *args):
        recorder.on_train_batch_end(trainer, pl_module)
        before(self, trainer, pl_module, *args)

    monkeypatch.setattr(KeepWeights, "on_train_batch_end", record)
    scores.extend([0.6, 0.4])
    folder = run_of(volume, tmp_path / "run", keep=keep)
    assert equal(kept(folder), recorder.weights[step - 1])
    metrics, steps, kept_step = read_metrics(folder)
    assert (steps, kept_step) == (4, step)
    assert metrics["val/dice"] == pytest.approx({2: 0.6, 4: 0.4}[step])
