"""`zoo train`: the commands of the help as written, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from support.tiny_training import write_volume

TINY = ["arch.base_channels=2", "arch.block_counts=[1,1,1,1,1,1,1,1,1]"]
RECIPE = ["training.patch_size=[16,32,32]", "training.batch_size=1", "training.max_steps=2"]
VOLUME = ["data.train.image=vol.h5:raw", "data.train.label=vol.h5:mito"]
GOOD = ["task=mito", *VOLUME, *TINY, *RECIPE]


@pytest.fixture
def here(tmp_path, monkeypatch):
    float_image = np.full((20, 40, 40), 0.5, np.float32)
    float_image[7, 8, 9] = np.nan
    write_volume(
        tmp_path / "vol.h5",
        other_shape=np.zeros((20, 40, 41), np.uint8),
        flat=np.zeros((40, 40), np.uint8),
        hole=float_image,
        wide=np.full((20, 40, 40), 200.0, np.float32),
        float_label=np.zeros((20, 40, 40), np.float32),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_of_the_help_works_as_written(run_zoo, here, caplog, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.cli._progress.plain_interval", lambda _: 0.0)
    code, out, err = run_zoo("train", "mednext-S", *GOOD, "arch.kernel_size=5", "--output", "run")
    assert code == 0
    assert out == "run: 2 steps\n"
    assert caplog.messages == ["training on the cpu in 32-true instead of 16-mixed"]
    assert re.search(r"^train: 2/2 steps, loss \d\.\d{3}, 0:\d\d so far, 0:00 left$", err, re.MULTILINE)
    code, out, _ = run_zoo("show", "run", "--json")
    assert code == 0
    assert json.loads(out)["model"]["arch"]["kernel_size"] == 5


def test_an_experiment_file_of_one_s_own_trains_and_reports_json(run_zoo, here):
    (here / "sub").mkdir()
    (here / "vol.h5").rename(here / "sub" / "vol.h5")
    (here / "a.yaml").write_text(
        "schema_version: 1\nname: own\nsummary: Own.\nmodel: mednext-S\ntask: mito\n"
        "arch: {base_channels: 2, block_counts: [1, 1, 1, 1, 1, 1, 1, 1, 1]}\n"
        "data:\n  root: sub\n  train: {image: 'vol.h5:raw', label: 'vol.h5:mito', region: {z: [0, 16]}}\n"
        "  validation: {image: 'vol.h5:raw', label: 'vol.h5:mito', region: {z: [16, 20]}}\n"
        "training: {patch_size: [16, 32, 32], batch_size: 1, max_steps: 2, validate_every: 2}\n"
    )
    code, out, _ = run_zoo("train", "a.yaml", "--json", "--device", "cpu")
    assert code == 0
    result = json.loads(out)
    assert result["folder"].startswith("runs/own-mito-")
    assert result["steps"] == 2
    assert result["metrics"].keys() == {"val/dice", "val/iou", "step"}
    code, out, _ = run_zoo("train", result["folder"], "--resume", "training.max_steps=3")
    assert (code, out.split(" (")[0]) == (0, f"{result['folder']}: 3 steps")


def test_a_dry_run_prints_the_complete_run_and_makes_nothing(run_zoo, here):
    before = sorted(here.iterdir())
    code, out, err = run_zoo("train", "mednext-S", *GOOD, "--dry-run")
    assert (code, err) == (0, "")
    assert "kind: run" in out
    assert "learning_rate: 0.001" in out
    assert sorted(here.iterdir()) == before


def test_a_fast_dev_run_says_that_all_went_well(run_zoo, here):
    before = sorted(here.iterdir())
    code, out, err = run_zoo("train", "mednext-S", *GOOD, "--fast-dev-run")
    assert (code, out) == (0, "")
    assert err.endswith("zoo: 2 steps and a validation patch went well, nothing was kept.\n")
    assert sorted(here.iterdir()) == before


def without(key):
    return [item for item in GOOD if not item.startswith(key)]


def instead(item):
    return [*without(item.partition("=")[0] + "="), item]


MISTAKES = [
    (["mednxt-S", *GOOD], "'mednxt-S': did you mean 'mednext-S'"),
    (["vnc-mitto"], "unknown experiment or model 'vnc-mitto': did you mean 'vnc-mito'"),
    (["none.yaml"], "'none.yaml' does not exist"),
    (["mednext-S", *instead("task=mitto")], "unknown task 'mitto': did you mean 'mito'"),
    (["mednext-S", *without("task")], "mednext-S: no task is given, add task=NAME with one of .*membrane, mito, "),
    (["mednext-S", "task=mito"], "there is no volume to train on, add data.train.image=FILE:DATASET"),
    (["mednext-S", *GOOD, "training.max_step=3"], r"training.max_step: unknown key, did you mean 'max_steps'"),
    (["mednext-S", *GOOD, "arch.kernal_size=3"], "unknown key arch.kernal_size for mednext-S: did you mean"),
    (["mednext-S", *GOOD, "training.learning_rate=fast"], "training.learning_rate: .*fast"),
    (["mednext-S", *instead("data.train.image=none.h5:raw")], "none.h5: there is no such file or folder"),
    (["mednext-S", *instead("data.train.image=vol.h5:rw")], "there is no array 'rw', did you mean 'raw'"),
    (["mednext-S", *without("data.train.label")], r"data.train\[0\].label: Field required"),
    (["mednext-S", *instead("data.train.label=vol.h5:other_shape")], "have the shapes .* must be equal"),
    (["mednext-S", *instead("data.train.label=vol.h5:float_label")], "the label is float32, and must hold whole"),
    (["mednext-S", *instead("data.train.image=vol.h5:flat")], "has 2 dimensions"),
    (["mednext-S", *instead("data.train.image=vol.h5:hole")], r"vol.h5:hole: holds nan at \(z, y, x\) = \(7, 8, 9\)"),
    (["mednext-S", *instead("data.train.image=vol.h5:wide")], r"give data.intensity_range=\[low,high\]"),
    (
        ["mednext-S", *instead("training.patch_size=[16,32,33]")],
        r"training.patch_size \[16, 32, 33\] is not legal for mednext-S .*example training.patch_size=\[16,32,48\]",
    ),
    (["mednext-S", *GOOD, "prediction.window=[8,32,32]"], r"prediction.window \[8, 32, 32\] is not legal"),
    (["vnc-mito"], "the folder of the volumes is not given, add data.root=FOLDER"),
    (["vnc-mito", "data.root=nowhere"], "no folder nowhere either"),
    (["mednext-S", *GOOD, "data.train.region.z=[0,21]"], r"region z=0:21 is not inside vol.h5:raw, which has z=0:20"),
    (["mednext-S", *GOOD, "data.train.region.z=[5,5]"], r"region z=5:5 is empty in vol.h5:raw"),
    (
        ["mednext-S", *GOOD, "data.downsample=[4,1,1]", "data.train.region.z=[1,7]"],
        r"region z: \[1, 7\] holds no whole block of 4 voxels",
    ),
    (["mednext-S", *GOOD, "arch.spatial_dims=2"], "is a 2-D network, and training works on volumes"),
    (["mednext-S", *GOOD, "--output", "vol.h5"], "vol.h5 exists and is not empty"),
    (["mednext-S", *GOOD, "--output", "vol.h5/run"], "vol.h5/run: the run folder cannot be made"),
    (["mednext-S", *GOOD, "--output", "/proc/run"], "/proc/run: the run folder cannot be made"),
    (["mednext-S", *GOOD, "--device", "tpu"], "unknown device 'tpu', give auto, cpu, cuda or mps"),
    (["mednext-S", "--resume"], "'mednext-S' is no run folder"),
    (["mednext-S", *GOOD, "arch.base_channels=1000000"], "base_channels"),
    (["mednext-S", *GOOD, "fast"], "'fast' is no override, write key=value"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_sentence_and_leaves_nothing(run_zoo, here, args, message):
    before = sorted(here.rglob("*"))
    code, out, err = run_zoo("train", *args)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("zoo: ")
    assert re.search(message, last)
    assert all(line.startswith("zoo: training on the cpu in") for line in err.splitlines()[:-1])
    assert sorted(here.rglob("*")) == before


RUN_ALL = """
import json, sys
from connectomics_zoo.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["zoo", "train", *arguments]
    try:
        main()
    except SystemExit as stop:
        print(stop.code, sorted({"torch", "lightning", "monai"} & sys.modules.keys()))
"""


def test_a_mistake_is_found_before_torch_is_imported(here):
    mistakes = [args for args, _ in MISTAKES]
    run = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(mistakes)], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["2 []"] * len(mistakes)


def test_resuming_what_cannot_be_is_refused_before_torch_is_imported(run_zoo, here):
    assert run_zoo("train", "mednext-S", *GOOD, "--output", "run")[0] == 0
    mistakes = [
        ["run", "--resume", "arch.kernel_size=5"],
        ["run", "--resume", "training.patch_size=[16,32,33]"],
        ["run", "--resume", "training.max_stepz=5"],
        ["run", "--resume", "--output", "other"],
        ["run", "--resume", "training.max_steps=5"],  # its checkpoint is gone
    ]
    (here / "run" / "checkpoints" / "last.ckpt").unlink()
    run = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(mistakes)], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["2 []"] * len(mistakes)
    assert run.stderr.splitlines()[-1].startswith("zoo: run has no checkpoints/last.ckpt to resume from")


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(run_zoo, here, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("connectomics_zoo.train.patches.TrainingPatches._draw", interrupt)
    code, _, err = run_zoo("train", "mednext-S", *GOOD, "--output", "run")
    assert code == 130
    assert "zoo: run: stopped after 0 steps, go on with --resume.\n" in err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run_zoo("train", "run", "--resume")[0] == 0


def test_a_diverging_loss_exits_with_1(run_zoo, here, monkeypatch):
    monkeypatch.setattr("connectomics_zoo.tasks.losses.DICE_EPSILON", float("nan"))
    code, _, err = run_zoo("train", "mednext-S", *GOOD, "--output", "run")
    assert code == 1
    last = err.splitlines()[-1]
    assert last == "zoo: the loss is nan at step 0: the training diverged, lower training.learning_rate."


def test_a_missing_dataset_lists_what_is_there(run_zoo, here):
    with h5py.File("vol.h5", "r") as file:
        names = sorted(file)
    _, _, err = run_zoo("train", "mednext-S", *instead("data.train.image=vol.h5"))
    assert ", ".join(names) in err


# Augmentation and its preview ---------------------------------------------------------------------------------------


def test_a_preview_draws_and_trains_nothing(run_zoo, here):
    before = sorted(here.iterdir())
    code, out, err = run_zoo("train", "mednext-S", *GOOD, "training.augmentation=anisotropic", "--preview", "a.png")
    assert (code, out, err) == (0, "drew a.png\n", "")
    assert sorted({*here.iterdir()} - {*before}) == [here / "a.png"]


def test_a_preview_needs_no_lightning(here):
    arguments = ["mednext-S", *GOOD, "--preview", "a.png"]
    code = (
        f"import sys; sys.argv = ['zoo', 'train', *{arguments!r}]\n"
        "from connectomics_zoo.cli.main import main\nmain()\n"
        "print(sorted({'torch', 'lightning'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "drew a.png\n['torch']\n"


@pytest.mark.parametrize("option", [["--fast-dev-run"], ["--output", "run"], ["--dry-run"], ["--json"]])
def test_a_preview_goes_with_nothing_that_would_train_or_print(run_zoo, here, option):
    code, _, err = run_zoo("train", "mednext-S", *GOOD, "--preview", "a.png", *option)
    assert code == 2
    assert f"--preview draws patches and stops, leave out {option[0]}" in err
    assert not (here / "a.png").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.jpg", "a.jpg: pictures are PNG files, give a name that ends in .png."),
        ("no/a.png", "no/a.png: there is no folder no"),
    ],
)
def test_a_preview_that_cannot_be_written_is_one_sentence(run_zoo, here, path, message):
    code, out, err = run_zoo("train", "mednext-S", *GOOD, "--preview", path)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_one_value_of_a_preset_is_changed_on_the_command_line(run_zoo, here):
    _, out, _ = run_zoo("train", "mednext-S", *GOOD, "training.augmentation.elastic=0.5", "--dry-run")
    assert "  augmentation:\n    preset: full\n    elastic: 0.5\n" in out


def test_a_value_is_changed_of_the_preset_that_the_experiment_names(run_zoo, here):
    (here / "a.yaml").write_text(
        "schema_version: 1\nname: own\nsummary: Own.\nmodel: mednext-S\ntask: mito\n"
        "data: {train: {image: 'vol.h5:raw', label: 'vol.h5:mito'}}\n"
        "training: {patch_size: [16, 32, 32], augmentation: anisotropic}\n"
    )
    _, out, _ = run_zoo("train", "a.yaml", "--dry-run", "training.augmentation.elastic=0.125")
    assert "preset: anisotropic" in out
    assert "elastic: 0.125" in out
    _, out, _ = run_zoo("train", "a.yaml", "--dry-run", "training.augmentation=flips")
    assert "augmentation: flips" in out
