"""Fine-tuning: runs that start from trained weights, with a frozen encoder or without."""

from __future__ import annotations

import importlib
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_training import make_run, request, write_volume

from connectomics_zoo import catalog
from connectomics_zoo.errors import SpecError, UnknownNameError, WeightsError
from connectomics_zoo.files.yaml import dump_yaml
from connectomics_zoo.network.build import build, build_meta
from connectomics_zoo.push.portable import portable_run
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, get_run
from connectomics_zoo.runs.portable import check_portable
from connectomics_zoo.schema import builder as builder_schema
from connectomics_zoo.schema.builder import encoder_modules
from connectomics_zoo.schema.experiment import DataSpec
from connectomics_zoo.specs.lookup import get_spec, get_task
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.train import train
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.trainer import first_network
from connectomics_zoo.weights.storage import read_weights
from connectomics_zoo.weights.transfer import find_roles

MODELS = sorted({get_spec(entry.path).builder: entry.name for entry in catalog.entries("model")}.values())
"""One model of each builder."""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a run of the task `mito`, of two steps."""
    folder = tmp_path_factory.mktemp("first")
    path = write_volume(folder / "v.h5")
    return train("mednext-S", request(path, max_steps=2), output=folder / "run", device="cpu").folder


@pytest.fixture
def volume(tmp_path):
    return write_volume(tmp_path / "v.h5")


def fine_tune(volume, source, folder, *, task="binary", data=None, arch=None, notify=None, **training):
    changes = request(volume, max_steps=2, **training) | {"task": task, "init_from": str(source)}
    changes["data"] |= data or {}
    changes["arch"] |= arch or {}
    return train("mednext-S", changes, output=folder, device="cpu", notify=notify).folder


def trained(folder):
    state = torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


# Weights to start from ----------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_another_task_and_reports_on_every_tensor(first, volume, tmp_path):
    told = []
    folder = fine_tune(volume, first, tmp_path / "run", notify=told.append)
    report = json.loads((folder / "load_report.json").read_text())
    before, after = read_weights(first / "model.safetensors"), trained(folder)
    assert report["source"] == str(first) == get_run(folder).init_from
    assert report["reinitialised"] == [
        f"out_{level}.conv_out.{part}" for level in range(5) for part in ("weight", "bias")
    ]
    assert sorted([*report["exact"], *report["adapted"], *report["reinitialised"]]) == sorted(after)
    assert report["dropped"] == []
    assert told[:1] == [
        f"starts from {first}: {len(before) - 10} exact; 10 re-initialised: out_0.conv_out.weight, "
        "out_0.conv_out.bias, out_1.conv_out.weight, …"
    ]
    key = "enc_block_0.0.conv3.weight"
    fresh = build(get_run(folder).model, deep_supervision=True).state_dict()[key]
    assert (after[key] - before[key]).abs().max() < 0.1 * (fresh - before[key]).abs().max()


def test_a_file_and_its_folder_give_the_same_start(first, volume, tmp_path):
    runs = [
        fine_tune(volume, source, tmp_path / name)
        for name, source in (("a", first), ("b", first / "model.safetensors"))
    ]
    one, two = map(trained, runs)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_other_channels_and_larger_kernels_are_adapted(first, tmp_path):
    run = get_run(first)
    model = resolve_model(run.model, in_channels=3, arch={"kernel_size": 5})
    network, report = first_network(run.model_copy(update={"model": model, "init_from": str(first)}), resume=False)[:2]
    rules = dict(report.adapted)
    assert rules["stem.weight"] == "1 to 3 input channels by their mean, sum kept"
    assert rules["enc_block_0.0.conv1.weight"] == "kernel 3x3x3 to 5x5x5 by interpolation (UpKern)"
    assert not report.reinitialised
    assert network.training


def test_a_resumed_run_takes_its_weights_from_its_checkpoint_alone(first, volume, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(first, source)
    folder = fine_tune(volume, source, tmp_path / "run")
    whole = trained(fine_tune(volume, source, tmp_path / "whole", task="binary"))
    shutil.rmtree(source)
    before, told = (folder / "load_report.json").read_bytes(), []
    assert train(folder, {"training": {"max_steps": 3}}, resume=True, device="cpu", notify=told.append).steps == 3
    assert told == []
    assert get_run(folder).init_from == str(source)
    assert (folder / "load_report.json").read_bytes() == before
    assert not all(torch.equal(value, whole[name]) for name, value in trained(folder).items())
    with pytest.raises(SpecError, match="'init_from' cannot change when a run is resumed"):
        train(folder, {"init_from": str(first), "training": {"max_steps": 4}}, resume=True, device="cpu")


def write_pickle(folder):
    torch.save({"weight": torch.zeros(1)}, folder / "w.ckpt")
    return folder / "w.ckpt"


def write_other(folder):
    save_file({"other": torch.zeros(1)}, folder / "other.safetensors")
    return folder / "other.safetensors"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda folder: "mednext-M", WeightsError, "mednext-M has no trained weights"),
        (lambda folder: "mednxt-S.vnc", UnknownNameError, "unknown model 'mednxt-S': did you mean 'mednext-S'"),
        (lambda folder: folder / "none", UnknownNameError, "none' does not exist"),
        (lambda folder: folder / "none.safetensors", WeightsError, r"none\.safetensors: .*no such"),
        (write_pickle, WeightsError, r"w\.ckpt: \.ckpt files are pickles, which can run code"),
        (write_other, WeightsError, r"other\.safetensors: the weights do not fit the network: \d+ missing"),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_what_is_wrong_with_the_weights_is_found_before_the_run_folder_is_made(
    volume, tmp_path, source, error, message, fast
):
    changes = request(volume) | {"init_from": str(source(tmp_path))}
    with pytest.raises(error, match=message) as caught:
        train("mednext-S", changes, output=tmp_path / "run", device="cpu", fast_dev_run=fast)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("voxels", "downsample", "warned"),
    [
        ([10.0, 8.0, 8.0], [1, 1, 1], True),
        ([10.0, 4.0, 4.0], [1, 1, 1], False),
        ([10.0, 4.3, 4.0], [1, 1, 1], False),
        ([10.0, 2.0, 2.0], [1, 2, 2], False),
        ([10.0, 4.0, 4.0], [1, 2, 2], True),
    ],
)
def test_other_network_voxels_than_those_of_the_weights_are_warned_of(
    first, tmp_path, caplog, voxels, downsample, warned
):
    shutil.copytree(first, tmp_path / "source")
    run = get_run(first)
    known = run.model_copy(update={"data": run.data.model_copy(update={"voxel_size_nm": (10.0, 4.0, 4.0)})})
    (tmp_path / "source" / "spec.yaml").write_text(dump_yaml(known.model_dump(mode="json", exclude_none=True)))
    here = DataSpec.model_validate(run.data.model_dump() | {"voxel_size_nm": voxels, "downsample": downsample})
    with caplog.at_level(logging.WARNING):
        first_network(run.model_copy(update={"data": here, "init_from": str(tmp_path / "source")}), resume=False)
    messages = [text for text in caplog.messages if "was trained on network voxels of 10 x 4 x 4 nm" in text]
    assert len(messages) == warned


# Places -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "portable"),
    [
        ("mednext-S.vnc-mito", "mednext-S.vnc-mito"),
        ("hf://org/name@0123", "hf://org/name@0123"),
        ("runs/first", "runs/first"),
        ("/home/me/runs/first/", "first"),
        ("../first/model.safetensors", "model.safetensors"),
        (r"C:\Users\me\first", "first"),
        ("~/first", "first"),
    ],
)
def test_a_run_that_is_given_away_names_no_place_of_this_machine_as_its_start(source, portable):
    run = make_run({"train": []}).model_copy(update={"init_from": source})
    assert portable_run(run).init_from == portable
    check_portable(portable_run(run), source="there")
    if source != portable:
        with pytest.raises(SpecError, match=r"^there: names the place"):
            check_portable(run.model_copy(update={"data": DataSpec(root="???")}), source="there")


def test_masks_of_a_run_that_is_given_away_have_relative_places():
    pair = {"image": "a.h5:raw", "label": "a.h5:mito", "mask": "/home/me/m.h5:mask"}
    run = make_run({"train": [pair]})
    assert portable_run(run).data.train[0].mask == "m.h5:mask"
    with pytest.raises(SpecError, match=r"names the place '/home/me/m\.h5:mask'"):
        check_portable(run, source="there")


# Frozen encoders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_encoder_has_the_stem_and_no_head_and_something_is_left_to_train(model):
    spec = get_spec(model)
    network, roles = build_meta(spec, deep_supervision=True), find_roles(spec)
    parts = [network.get_submodule(name) for name in encoder_modules(spec.builder, spec.arch)]
    encoder = {id(weight) for part in parts for weight in part.parameters()}
    named = dict(network.named_parameters(remove_duplicate=False))
    assert all(id(named[name]) in encoder for name in roles.stem)
    assert not any(id(named[name]) in encoder for name in (roles.head | roles.scales) & named.keys())
    trainable = sum(
        weight.numel() for weight in network.parameters() if weight.requires_grad and id(weight) not in encoder
    )
    assert 0 < trainable < sum(weight.numel() for weight in network.parameters())


def test_frozen_weights_stay_bit_equal_and_the_others_change(first, volume, tmp_path):
    folder = fine_tune(
        volume, first, tmp_path / "run", task="membrane", freeze="encoder", ema_decay=0.5, weight_decay=0.1
    )
    before, after, kept = (
        read_weights(first / "model.safetensors"),
        trained(folder),
        read_weights(folder / "model.safetensors"),
    )
    frozen = tuple(f"{name}." for name in encoder_modules("mednext", get_spec("mednext-S").arch))
    same = [name for name in before if name.startswith(frozen)]
    assert len(same) > 50
    assert all(torch.equal(before[name], after[name]) and torch.equal(before[name], kept[name]) for name in same)
    others = [name for name in before if name not in same and name != "dummy_tensor"]
    assert len(others) > 50
    assert not any(torch.equal(before[name], after[name]) for name in others)
    train(folder, {"training": {"max_steps": 3}}, resume=True, device="cpu")
    assert all(torch.equal(before[name], trained(folder)[name]) for name in same)


def test_running_statistics_of_a_frozen_encoder_stay_and_those_of_the_decoder_move():
    run = make_run({}, model="rsunet")
    run = run.model_copy(update={"training": run.training.model_copy(update={"freeze": "encoder"})})
    module = SegmentationModule(run, build(run.model, deep_supervision=True))
    before = {name: value.clone() for name, value in module.network.named_buffers() if name.endswith("running_mean")}
    module.eval()
    module.train()
    module(torch.rand(1, 1, 16, 64, 64))
    moved = {
        name
        for name, value in module.network.named_buffers()
        if name in before and not torch.equal(value, before[name])
    }
    encoder = {name for name in before if name.startswith(encoder_modules("rsunet", run.model.arch))}
    assert encoder
    assert moved
    assert moved == before.keys() - encoder


def test_a_builder_that_does_not_say_what_its_encoder_is_trains_all_or_nothing(volume, tmp_path, monkeypatch):
    module = importlib.import_module(catalog.builder_import_path("mednext"))
    monkeypatch.delattr(module, "encoder_modules")
    assert encoder_modules("mednext", get_spec("mednext-S").arch) is None
    assert builder_schema.builder_module("mednext") is module
    with pytest.raises(
        SpecError, match=r"the builder 'mednext' does not say which weights are its encoder .* leave it"
    ):
        train("mednext-S", request(volume, freeze="encoder"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The command line ---------------------------------------------------------------------------------------------------


def test_the_command_line_shows_the_report_on_stderr(run_zoo, first, volume, tmp_path):
    code, out, err = run_zoo(
        "train",
        "mednext-S",
        "task=binary",
        f"init_from={first}",
        f"data.train.image={volume}:raw",
        f"data.train.label={volume}:mito",
        "arch.base_channels=2",
        "arch.block_counts=[1,1,1,1,1,1,1,1,1]",
        "training.patch_size=[16,32,32]",
        "training.batch_size=1",
        "training.max_steps=1",
        "--output",
        str(tmp_path / "run"),
    )
    assert (code, out) == (0, f"{tmp_path}/run: 1 steps\n")
    assert f"zoo: starts from {first}: " in err
    assert "10 re-initialised: out_0.conv_out.weight" in err


def test_heads_that_mean_something_else_begin_anew(first, tmp_path):
    """The channels are as many, and yet others, even where their targets are made alike."""
    assert get_task("mito").channels[0].target == get_task("membrane").channels[0].target
    report = {}
    for task in ("mito", "membrane"):
        run = make_run({"train": [{"image": "a.h5:raw", "label": "a.h5:mito"}]}).model_copy(
            update={"task": get_task(task), "init_from": str(first)}
        )
        network, report[task] = first_network(run, resume=False)[:2]
    heads = {key for key in report["membrane"].reinitialised if ".conv_out." in key}
    assert heads == set(report["membrane"].reinitialised) != set()
    assert not report["mito"].reinitialised
    assert set(report["mito"].exact) == set(report["membrane"].exact) | heads
    kept = read_weights(first / "model.safetensors")
    assert not any(torch.equal(network.state_dict()[key], kept[key]) for key in heads if key.endswith("weight"))


def test_affinities_of_another_convention_begin_anew(tmp_path):
    """The offsets are written alike, and mean edges along other axes."""
    volume = write_volume(tmp_path / "v.h5", voxel_size_nm=[8, 8, 8])
    first = train("mednext-S", request(volume, max_steps=1) | {"task": "affinities-3"}, output=tmp_path / "r").folder
    run = get_run(first).model_copy(update={"init_from": str(first)})
    assert not first_network(run, resume=False).report.reinitialised
    convention = run.task.affinities.model_copy(update={"axes": "xyz"})
    other = run.model_copy(update={"task": run.task.model_copy(update={"affinities": convention})})
    start = first_network(other, resume=False)
    assert not start.means_the_same
    assert {key.partition(".")[2] for key in start.report.reinitialised} == {"conv_out.weight", "conv_out.bias"}
