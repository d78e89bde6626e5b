"""Training runs: they learn, leave a complete folder, stop cleanly, and go on where they stopped."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys

import h5py
import lightning as L
import numpy as np
import pytest
import torch
from support.tasks import make_task
from support.tiny_training import make_run, request, write_volume

import zoo
from connectomics_zoo.errors import (
    CheckFailedError,
    OutputError,
    SpecError,
    UnknownNameError,
    VolumeError,
    WeightsError,
)
from connectomics_zoo.network.build import build
from connectomics_zoo.phantom import make_phantom, write_phantom
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, LOCK_FILE, get_run
from connectomics_zoo.runs.logs import read_series
from connectomics_zoo.schema.model import ModelSpec
from connectomics_zoo.specs.listing import list_models
from connectomics_zoo.specs.lookup import get_spec, spec_path
from connectomics_zoo.specs.reference import parse_reference
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.train import inspection, train
from connectomics_zoo.train import trainer as training_run
from connectomics_zoo.train.callbacks import KeepWeights
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import Patch
from connectomics_zoo.train.resolve import resolve_run
from connectomics_zoo.train.trainer import _trained_on, training_precision
from connectomics_zoo.weights.storage import read_weights, write_weights


@pytest.fixture
def volume(tmp_path):
    return write_volume(tmp_path / "v.h5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps, with validations at the second and fourth."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_volume(folder / "v.h5")
    return train("mednext-S", request(path), output=folder / "run", device="cpu")


def stop_at(step):
    def progress(state):
        if state.done == step:
            raise KeyboardInterrupt

    return progress


def checkpoint(folder):
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)


def test_a_tiny_mednext_overfits_a_phantom(tmp_path):
    write_phantom(tmp_path / "p.h5", make_phantom(shape=(16, 32, 32), seed=0, voxel_size_nm=(16.0, 16.0, 16.0)))
    changes = request(tmp_path / "p.h5", max_steps=20, augmentation="none", validate_every=100, learning_rate=0.01)
    pair = {"image": f"{tmp_path}/p.h5:raw", "label": f"{tmp_path}/p.h5:membranes"}
    changes |= {"task": "membrane", "data": {"train": pair}, "arch": {"base_channels": 4, "block_counts": [1] * 9}}
    run = train("mednext-S", changes, output=tmp_path / "run", device="cpu")
    losses = [value for _, value in read_series(run.folder, "train/loss")]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])


def test_the_run_folder_is_complete(finished):
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    expected = {"spec.yaml", "model.safetensors", "metrics.json", "curve.png", "logs/metrics.csv", CHECKPOINT_FILE}
    assert expected <= names
    assert any(name.startswith("logs/events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".partial")]
    assert (finished.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((finished.folder / "metrics.json").read_text())
    assert content == {"steps": 4, **finished.metrics}
    assert {"val/dice", "val/iou", "step"} == set(finished.metrics)


def test_the_spec_in_the_run_folder_leaves_nothing_open(finished):
    run = get_run(finished.folder)
    assert run.model.outputs[0].channels == len(run.task.channels) == 1
    assert run.model.expect is not None
    assert run.training.batch_size == 1
    assert run.prediction.window == run.training.patch_size
    assert {"torch", "monai", "python", "connectomics-zoo"} == set(run.versions)
    assert (run.training.precision, run.trained_on) == ("16-mixed", "cpu, 32-true")
    text = (finished.folder / "spec.yaml").read_text()
    assert all(f"{name}:" in text for name, value in run.training if value is not None)


def test_the_loss_of_every_scale_is_logged(finished):
    with (finished.folder / "logs" / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    for row in rows:
        weights = {"output": 1, "ds_1": 0.5, "ds_2": 0.25, "ds_3": 0.125, "ds_4": 0.0625}
        total = sum(weight * float(row[f"train/loss_{name}"]) for name, weight in weights.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    assert [step for step, _ in read_series(finished.folder, "val/dice")] == [1, 3]


def test_a_run_folder_is_a_reference_to_its_weights(finished):
    network = zoo.load(finished.folder)
    state = checkpoint(finished.folder)["state_dict"]
    assert finished.metrics["step"] == 4
    assert all(torch.equal(value, state[f"network.{name}"]) for name, value in network.state_dict().items())


def test_the_same_seed_gives_the_same_weights(finished, tmp_path):
    path = write_volume(tmp_path / "v.h5")
    again = train("mednext-S", request(path), output=tmp_path / "run", device="cpu")
    first, second = zoo.load(finished.folder).state_dict(), zoo.load(again.folder).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_run_is_resumed_from_its_step_with_its_optimizer(volume, tmp_path):
    changes = request(volume, max_steps=6)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="run: stopped after 3 steps, go on with --resume"):
        train("mednext-S", changes, output=tmp_path / "run", device="cpu", progress=stop_at(3))
    assert signal.getsignal(signal.SIGINT) is handler
    stopped = checkpoint(tmp_path / "run")
    assert stopped["global_step"] == 3
    assert not (tmp_path / "run" / "metrics.json").exists()

    seen = []
    done = train(tmp_path / "run", resume=True, device="cpu", progress=lambda state: seen.append(state.done))
    ended = checkpoint(tmp_path / "run")
    assert done.steps == ended["global_step"] == 6
    assert min(seen) == 3
    assert {int(state["step"]) for state in ended["optimizer_states"][0]["state"].values()} == {6}
    steps = [step for step, _ in read_series(tmp_path / "run", "train/loss")]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in read_series(tmp_path / "run", "val/dice")] == [1, 3, 5]


def test_a_killed_run_goes_on_from_the_last_validation_and_its_best_score(volume, tmp_path):
    def copy_at_third_step(state):
        if state.done == 3:
            shutil.copytree(tmp_path / "run", tmp_path / "killed", ignore=shutil.ignore_patterns(LOCK_FILE))

    train("mednext-S", request(volume), output=tmp_path / "run", device="cpu", progress=copy_at_third_step)
    state = checkpoint(tmp_path / "killed")
    assert state["global_step"] == 2
    assert state["callbacks"]["KeepWeights"]["best"].keys() == {"val/dice", "val/iou", "step"}
    seen = []
    train(tmp_path / "killed", resume=True, device="cpu", progress=lambda state: seen.append(state.done))
    assert sorted(set(seen)) == [2, 3, 4]
    assert [step for step, _ in read_series(tmp_path / "killed", "val/dice")][-1] == 3


def test_a_finished_run_is_continued_with_more_steps_only(volume, tmp_path):
    folder = train("mednext-S", request(volume, max_steps=2), output=tmp_path / "run", device="cpu").folder
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(SpecError, match="'arch' cannot change when a run is resumed, only training, data and predict"):
        train(folder, {"arch": {"base_channels": 4}}, resume=True, device="cpu")
    with pytest.raises(SpecError, match=r"training.patch_size \[16, 32, 33\] is not legal"):
        train(folder, {"training": {"patch_size": [16, 32, 33], "max_steps": 4}}, resume=True, device="cpu")
    with pytest.raises(OutputError, match="leave out the output elsewhere"):
        train(folder, resume=True, output="elsewhere")
    assert (folder / "model.safetensors").read_bytes() == before
    assert train(folder, {"training": {"max_steps": 3}}, resume=True, device="cpu").steps == 3
    assert get_run(folder).training.max_steps == 3


def test_resuming_needs_a_whole_checkpoint(volume, tmp_path):
    folder = train("mednext-S", request(volume, max_steps=2), output=tmp_path / "run", device="cpu").folder
    (folder / CHECKPOINT_FILE).write_bytes(b"broken")
    with pytest.raises(WeightsError, match=r"last\.ckpt: is no checkpoint of a run, or damaged"):
        train(folder, {"training": {"max_steps": 4}}, resume=True)
    (folder / CHECKPOINT_FILE).unlink()
    with pytest.raises(UnknownNameError, match=r"run has no checkpoints/last\.ckpt to resume from"):
        train(folder, {"training": {"max_steps": 4}}, resume=True)


def test_sigterm_leaves_a_resumable_run(volume, tmp_path):
    code = (
        "import sys, json; from connectomics_zoo.train import train\n"
        "train('mednext-S', json.loads(sys.argv[1]), output=sys.argv[2], device='cpu',"
        " progress=lambda state: print(state.done, flush=True))"
    )
    changes = json.dumps(request(volume, max_steps=100_000, validate_every=50_000))
    process = subprocess.Popen(
        [sys.executable, "-c", code, changes, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in error.splitlines()[-1]
    assert not (tmp_path / "run" / LOCK_FILE).exists()
    step = checkpoint(tmp_path / "run")["global_step"]
    more = {"training": {"max_steps": step + 1}}
    assert train(tmp_path / "run", more, resume=True, device="cpu").steps == step + 1


def test_a_fast_dev_run_leaves_nothing(volume, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train("mednext-S", request(volume), fast_dev_run=True, device="cpu").steps == 2
    assert list((tmp_path / "here").iterdir()) == []


def test_a_diverging_loss_is_a_failed_check_and_keeps_the_last_good_checkpoint(volume, tmp_path, monkeypatch):
    original = SegmentationModule.forward

    def forward(self, x):
        outputs = original(self, x)
        return {name: value * float("nan") for name, value in outputs.items()} if self.global_step == 3 else outputs

    monkeypatch.setattr(SegmentationModule, "forward", forward)
    with pytest.raises(CheckFailedError, match=r"the loss is nan at step 3: the training diverged, lower training.lea"):
        train("mednext-S", request(volume), output=tmp_path / "run", device="cpu")
    assert checkpoint(tmp_path / "run")["global_step"] == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_nan_met_in_a_patch_ends_with_one_sentence_and_a_resumable_run(tmp_path, monkeypatch, workers):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        image = file["raw"][...] / np.float32(255)
        del file["raw"]
        image[:16] = np.nan
        file["raw"] = image
    monkeypatch.setattr(inspection, "SCANNED_VOXELS", 0)
    with pytest.raises(VolumeError) as caught:
        train("mednext-S", request(path, workers=workers), output=tmp_path / "run", device="cpu")
    assert str(caught.value).startswith(f"{path}:raw: holds nan at (z, y, x) = (0, ")
    assert "\n" not in str(caught.value)
    path.unlink()
    write_volume(path)
    assert train(tmp_path / "run", {"training": {"workers": 0}}, resume=True, device="cpu").steps == 4


def test_nan_in_a_float_image_is_found_before_anything_is_made(tmp_path):
    path = write_volume(tmp_path / "v.h5")
    with h5py.File(path, "r+") as file:
        image = file["raw"][...] / np.float32(255)
        image[19, 3, 4] = np.nan
        del file["raw"]
        file["raw"] = image
    with pytest.raises(VolumeError, match=r"v\.h5:raw: holds nan at \(z, y, x\) = \(19, 3, 4\)"):
        train("mednext-S", request(path), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_validation_the_last_weights_are_kept(volume, tmp_path):
    changes = request(volume, max_steps=3)
    changes["data"]["validation"] = []
    run = train("mednext-S", changes, output=tmp_path / "run", device="cpu")
    assert run.metrics == {"step": 3.0}
    state, kept = checkpoint(run.folder)["state_dict"], zoo.load(run.folder).state_dict()
    assert all(torch.equal(value, state[f"network.{name}"]) for name, value in kept.items())


def test_a_tall_batch_mixes_volumes_read_by_two_workers(tmp_path):
    one, two = write_volume(tmp_path / "1.h5"), write_volume(tmp_path / "2.h5", shape=(1, 40, 50), seed=1)
    changes = request(one, max_steps=2, batch_size=3, workers=2)
    changes["data"]["train"].append({"image": f"{two}:raw", "label": f"{two}:mito"})
    assert train("mednext-S", changes, output=tmp_path / "run", device="cpu").steps == 2


def test_two_softmax_classes_train_and_the_foreground_alone_is_scored(volume, tmp_path):
    run = train("mednext-S", request(volume, max_steps=2) | {"task": "binary"}, output=tmp_path / "run", device="cpu")
    assert get_run(run.folder).model.outputs[0].channels == 2
    assert 0 <= run.metrics["val/dice"] <= 1


def test_validation_counts_only_what_the_mask_shows():
    module = SegmentationModule(make_run({}), torch.nn.Identity())
    mask = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    mask[..., 0] = True
    targets = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2, 2)
    logits = torch.tensor([9.0, -9.0, 9.0, -9.0, -9.0, 9.0, -9.0, 9.0]).view(1, 1, 2, 2, 2)
    module.on_validation_epoch_start()
    module.validation_step(Patch(logits, targets, mask), 0)
    assert module.counts.tolist() == [[1, 1, 1, 1]]


def test_of_several_classes_the_most_likely_one_is_validated_however_unlikely():
    kinds = ("background", "presynapse", "postsynapse")
    task = make_task(*(("softmax", kind, {"cross_entropy": 1.0}) for kind in kinds), method="argmax")
    module = SegmentationModule(make_run({}).model_copy(update={"task": task}), torch.nn.Identity())
    logits = torch.tensor([[1.0, 0.9, 0.8], [0.8, 1.0, 0.9]]).T.reshape(1, 3, 1, 1, 2)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T.reshape(1, 3, 1, 1, 2)
    module.on_validation_epoch_start()
    module.validation_step(Patch(logits, targets, torch.ones_like(targets, dtype=torch.bool)), 0)
    assert module.counts.tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]


def test_the_best_weights_are_kept(tmp_path, monkeypatch):
    module = SegmentationModule(make_run({}), torch.nn.Linear(2, 2))
    keep = KeepWeights(tmp_path, metric="dice", every=1)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    metrics: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(L.Trainer, "callback_metrics", metrics)
    kept = []
    for dice in (0.2, 0.7, 0.5, 0.8, 0.8):  # of equal ones, the later
        metrics["val/dice"] = torch.tensor(dice)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        keep.on_validation_end(trainer, module)
        kept.append((tmp_path / "model.safetensors").is_file())
    assert kept == [True, True, False, True, True]
    assert keep.best["val/dice"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("wanted", "name", "has_bfloat16"),
    [("bf16-mixed", "monai_unet", True), ("bf16-mixed", "mednext-S", False), ("16-mixed", "mednext-S", True)],
)
def test_a_cpu_trains_in_float32_and_says_so(caplog, monkeypatch, wanted, name, has_bfloat16):
    monkeypatch.setattr(training_run, "cpu_has_bfloat16", lambda: has_bfloat16)
    assert training_precision(wanted, "cpu", model=get_spec(name)) == ("32-true", "cpu")
    assert caplog.messages == [f"training on the cpu in 32-true instead of {wanted}"]


def test_a_cpu_with_bfloat16_trains_in_it_where_the_builder_says_that_it_pays(caplog, monkeypatch):
    monkeypatch.setattr(training_run, "cpu_has_bfloat16", lambda: True)
    assert training_precision("bf16-mixed", "cpu", model=get_spec("mednext-S")) == ("bf16-mixed", "cpu")
    assert training_precision("32-true", "cpu", model=get_spec("mednext-S")) == ("32-true", "cpu")
    assert caplog.messages == []


@pytest.mark.parametrize("arch", [{"norm": "layer"}, {"grn": True}, {"base_channels": 8}])
def test_a_mednext_without_fast_path_trains_in_float32_on_a_cpu(monkeypatch, arch):
    monkeypatch.setattr(training_run, "cpu_has_bfloat16", lambda: True)
    assert training_precision("bf16-mixed", "cpu", model=resolve_model("mednext-S", arch=arch)) == ("32-true", "cpu")


def test_an_unknown_or_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnknownNameError, match="unknown device 'gpu', give auto, cpu, cuda or mps"):
        train("mednext-S", device="gpu")
    with pytest.raises(UnknownNameError, match="the device 'cuda' is not available here, give auto or cpu"):
        training_precision("32-true", "cuda", model=get_spec("mednext-S"))


BUILDERS: dict[str, ModelSpec] = {}
for _spec in sorted(map(get_spec, list_models()), key=lambda spec: -spec.expect.parameters.inference):
    BUILDERS[_spec.builder] = _spec  # the smallest

SMALL_ARCH = {
    "monai_unetr": {"hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "feature_size": 4},
    "monai_swin_unetr": {"feature_size": 12},
}


@pytest.mark.parametrize("builder", sorted(BUILDERS))
def test_weights_of_every_builder_are_written(builder, tmp_path):
    network = build(resolve_model(BUILDERS[builder], arch=SMALL_ARCH.get(builder)), deep_supervision=False)
    write_weights(network, tmp_path / "model.safetensors")
    assert set(read_weights(tmp_path / "model.safetensors")) == set(network.state_dict())


def test_progress_tells_steps_and_metrics(volume, tmp_path):
    seen = []
    train("mednext-S", request(volume, max_steps=2), output=tmp_path / "run", device="cpu", progress=seen.append)
    assert [state.done for state in seen] == [0, 1, 2, 2] or [state.done for state in seen] == [0, 1, 2]
    assert (seen[-1].total, seen[-1].unit) == (2, "steps")
    assert seen[-1].numbers.keys() == {"loss", "val/dice", "val/iou"}
    assert all(np.isfinite(state.numbers["loss"]) for state in seen[1:])


def test_an_experiment_s_model_may_be_a_path_and_a_run_is_named_after_its_model(volume, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(spec_path(parse_reference("mednext-S")).read_text())
    assert resolve_run("mine.yaml", request(volume)).name == "mednext-S"
    (tmp_path / "experiment.yaml").write_text(
        "schema_version: 1\nname: own\nsummary: Own.\nmodel: mine.yaml\ntask: mito\n"
        "data: {train: {image: 'v.h5:raw', label: 'v.h5:mito'}}\ntraining: {patch_size: [16, 32, 32]}\n"
    )
    run = resolve_run("experiment.yaml", {"arch": {"base_channels": 2}})
    assert run.name == "own"
    assert run.model.arch.base_channels == 2
    assert run.training.patch_size == (16, 32, 32)


def test_a_run_that_goes_on_elsewhere_says_both():
    run = make_run({}).model_copy(update={"trained_on": "GPU, bf16-mixed"})
    assert _trained_on(run, "cpu, 32-true", False) == "cpu, 32-true"
    both = run.model_copy(update={"trained_on": _trained_on(run, "cpu, 32-true", True)})
    assert both.trained_on == "GPU, bf16-mixed; then cpu, 32-true" == _trained_on(both, "cpu, 32-true", True)


def test_an_experiment_may_have_a_threshold_of_its_own(tmp_path):
    changes = request(write_volume(tmp_path / "v.h5"))
    assert resolve_run("mednext-S", {**changes, "threshold": 0.35}).task.decode.threshold == 0.35
    assert resolve_run("mednext-S", changes).task.decode.threshold == 0.5
    with pytest.raises(SpecError, match=r"threshold 0\.35 has no effect: the task binary is decoded by argmax"):
        resolve_run("mednext-S", {**changes, "threshold": 0.35, "task": "binary"})
