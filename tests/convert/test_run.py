"""Checkpoints of other projects: converted exactly, read without running anything, refused in one sentence."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import sys
import tarfile
import types
import zipfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors import safe_open
from torch import Tensor, nn

import zoo
from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.convert import checkpoint as checkpoint_module
from connectomics_zoo.convert.checkpoint import read_checkpoint
from connectomics_zoo.convert.key_map import KeyMap, get_key_map, is_under, key_maps
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import LimitError, OutputError, SpecError, UnknownNameError, WeightsError, ZooError
from connectomics_zoo.network.build import build, measure_expectation
from connectomics_zoo.schema.validation import validate
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.specs.spec_file import spec_text
from connectomics_zoo.verify.run import verify
from connectomics_zoo.weights.storage import read_weights

FORMATS = ("mednext", "pytc", "pytc-old", "pytc-v1", "nnunet-v2", "lightning", "plain", "plain-nested")

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


@dataclass
class Config:
    """Stands for the configuration that PyTorch Connectomics used to pickle."""

    name: str = "x"
    sizes: list[int] = field(default_factory=lambda: [1])


Config.__module__ = "connectomics.config.hydra_config"


@pytest.fixture
def pytc_config(monkeypatch):
    """Pickles `Config` from the module that it had; when it is read, there is no such module."""
    for name in ("connectomics", "connectomics.config", "connectomics.config.hydra_config"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
    module.Config = Config  # type: ignore[attr-defined]
    return Config()


def lightning_content(state: State, **more: Any) -> dict[str, Any]:
    """What Lightning's `dump_checkpoint` writes for a module that holds `state`."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        ],
        "lr_schedulers": [{"base_lrs": [1e-3], "best": np.float64(0.5)}],
        "hparams_name": "kwargs",
        **more,
    }


def content_of(kind: str, state: State, config: Any = None) -> Any:
    """Return what the project `kind` hands to `torch.save` for a network with `state`."""
    metadata = {"format_version": 1, "config_embedded": False, "config_hash": "abc", "model_arch": "mednext"}
    return {
        "mednext": lambda: {
            "epoch": 1001,
            "state_dict": prefixed("module.", state),
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "lr_scheduler_state_dict": None,
            "plot_stuff": ([np.float64(1.5), np.float32(2)], [np.float64(1)], [], [np.zeros(2)]),
            "best_stuff": (7, np.float64(0.5), np.float64(0.25)),
            "amp_grad_scaler": {"scale": 65536.0},
        },
        "pytc": lambda: lightning_content(
            {**prefixed("model.model.", state), "loss_functions.1.pos_weight": torch.ones(1)},
            hyper_parameters={"skip_loss": False},
            pytc_metadata=metadata,
        ),
        "pytc-old": lambda: lightning_content(
            {**prefixed("model._orig_mod.model.", state), "loss_weighter.log_vars": torch.zeros(2)},
            hyper_parameters={
                "cfg": config,
                "node": OmegaConf.create({"a": [1, "x", None], "b": {"c": 2.0}}),
                "typed": OmegaConf.structured(config),
                "path": pathlib.Path("/somewhere"),
            },
        ),
        "pytc-v1": lambda: {"iteration": 9, "state_dict": state, "optimizer": {"state": {}}, "lr_scheduler": {}},
        "nnunet-v2": lambda: {
            "network_weights": prefixed("_orig_mod.", state),
            "optimizer_state": {"state": {}, "param_groups": []},
            "grad_scaler_state": {},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_start_timestamps": [1.0]},
            "_best_ema": np.float64(0.75),
            "current_epoch": 1000,
            "init_args": {"plans": {"a": [1]}, "configuration": "3d_fullres", "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainerMedNeXt",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        "lightning": lambda: lightning_content(
            {**prefixed("net.", state), "criterion.weight": torch.ones(2)},
            hyper_parameters={"args": argparse.Namespace(lr=1.0), "counts": defaultdict(list, {"a": [1]})},
        ),
        "plain": lambda: state,
        "plain-nested": lambda: {"model_state_dict": prefixed("model.", state), "epoch": np.int64(3)},
    }[kind]()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_checkpoint_of_each_project_becomes_the_same_tensors_with_a_spec(
    kind, spec, state, tmp_path, pytc_config, monkeypatch
):
    torch.save(content_of(kind, state, pytc_config), tmp_path / "file.ckpt")
    monkeypatch.undo()
    done = convert(tmp_path / "file.ckpt", tmp_path / "out", model=spec)
    assert done.format == kind.removesuffix("-old").removesuffix("-nested")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "spec.yaml", "SHA256SUMS"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.ckpt", "out"]
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert zoo.get_spec(tmp_path / "out") == spec
    assert "connectomics" not in sys.modules
    wrappers = {"mednext": "module.", "pytc": "model.model.", "pytc-old": "model._orig_mod.model.", "lightning": "net."}
    assert done.prefix == wrappers.get(kind, {"nnunet-v2": "_orig_mod.", "plain-nested": "model."}.get(kind, ""))
    beside = {
        "pytc": ("loss_functions.1.pos_weight",),
        "pytc-old": ("loss_weighter.log_vars",),
        "lightning": ("criterion.weight",),
    }
    assert done.dropped == beside.get(kind, ())
    assert (done.tensors, done.absent, done.averaged) == (len(state), (), False)
    assert done.parameters == spec.expect.parameters.training


def test_the_network_computes_what_it_did_before_and_the_folder_is_a_reference(spec, state, tmp_path):
    torch.save(content_of("mednext", state), tmp_path / "a.model")
    convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    network = build(spec, deep_supervision=True)
    network.load_state_dict(state)
    x = torch.rand(1, 1, 16, 32, 32)
    with torch.no_grad():
        expected = network.eval()(x)
        assert torch.equal(zoo.load(tmp_path / "out")(x), expected)
        assert torch.equal(zoo.load(spec, init_from=tmp_path / "out")(x), expected)
    report = verify([str(tmp_path / "out")], level="weights")
    assert report.passed


def test_the_file_says_what_it_was_made_from(spec, state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    done = convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as stream:
        assert stream.metadata() == {"format": "pt", "converted_from": "plain", "source_sha256": done.sha256}


def test_averaged_weights_are_taken_where_there_are_unless_the_last_are_asked_for(spec, state, tmp_path):
    averages = {key: value * 0.5 for key, value in state.items()}
    content = content_of("pytc", state)
    ema = {"ema_state": prefixed("model.", averages), "updates": 3, "decay": 0.999}
    content["callbacks"]["EMAWeightsCallback"] = ema
    torch.save(content, tmp_path / "a.ckpt")
    for averaged, expected, place in (
        (None, averages, "callbacks/EMAWeightsCallback/ema_state"),
        (True, averages, "callbacks/EMAWeightsCallback/ema_state"),
        (False, state, "state_dict"),
    ):
        done = convert(tmp_path / "a.ckpt", tmp_path / f"{averaged}", model=spec, averaged=averaged)
        assert (done.averaged, done.place) == (averaged is not False, place)
        written = read_weights(tmp_path / f"{averaged}" / "model.safetensors")
        assert all(torch.equal(written[key], expected[key]) for key in state)


def test_averages_that_are_asked_for_must_be_there(spec, state, tmp_path):
    torch.save(content_of("pytc", state), tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"has no averaged \(EMA\) weights, convert it without --ema\.$"):
        convert(tmp_path / "a.ckpt", tmp_path / "out", model=spec, averaged=True)


def test_lightnings_own_averages_are_told_from_the_last_state(spec, state, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build(spec, deep_supervision=False)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.net.eval()(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            callbacks.EMAWeightAveraging(decay=0.5),
            callbacks.ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3),
        ],
    )
    trainer.fit(Module(), torch.utils.data.DataLoader([torch.rand(1, 16, 32, 32)] * 3))
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    key = "stem.weight"
    assert not torch.equal(content["state_dict"][f"net.{key}"], content["current_model_state"][f"net.{key}"])
    for averaged, place in ((None, "state_dict"), (False, "current_model_state")):
        done = convert(tmp_path / "last.ckpt", tmp_path / place, model=spec, averaged=averaged)
        assert (done.place, done.averaged, done.format) == (place, averaged is None, "lightning")
        written = read_weights(tmp_path / place / "model.safetensors")
        assert torch.equal(written[key], content[place][f"net.{key}"])


def test_half_precision_is_kept(spec, state, tmp_path):
    halves = {key: value.half() for key, value in state.items()}
    torch.save(halves, tmp_path / "a.pt")
    assert convert(tmp_path / "a.pt", tmp_path / "out", model=spec).dtypes == {"float16": len(state)}
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[key], halves[key]) for key in halves)
    assert verify([str(tmp_path / "out")], level="weights").passed


def test_heads_of_deep_supervision_may_be_absent_and_are_named(spec, state, tmp_path):
    single = build(spec, deep_supervision=False).state_dict()
    torch.save(single, tmp_path / "a.pt")
    done = convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    assert set(done.absent) == state.keys() - single.keys() != set()
    assert done.parameters == spec.expect.parameters.inference
    assert verify([str(tmp_path / "out")], level="weights").passed


def test_other_channels_are_found_and_measured(spec, tmp_path):
    wider = resolve_model(spec, in_channels=3, out_channels=5)
    torch.save(build(wider, deep_supervision=True).state_dict(), tmp_path / "a.pt")
    done = convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    assert (done.input_channels, done.output_channels) == (3, 5)
    written = zoo.get_spec(tmp_path / "out")
    assert (written.name, done.model) == (spec.name, spec.reference)
    assert written.changes == {"0.0.0": "tiny 1.0.0 with 3 input and 5 output channels, those of the checkpoint a.pt."}
    assert written.expect == measure_expectation(wider)
    assert zoo.load(tmp_path / "out")(torch.rand(1, 3, 16, 32, 32)).shape[1] == 5


def test_tensors_that_share_memory_are_written_each(spec, state, tmp_path):
    first, second = "out_1.conv_out.bias", "out_2.conv_out.bias"
    tied = {**state, second: state[first], "stem.weight": torch.ones(1).expand(state["stem.weight"].shape)}
    torch.save(tied, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[key], tied[key]) for key in tied)


def test_the_model_is_recognised_by_its_tensors(tmp_path):
    torch.manual_seed(0)
    network = build(resolve_model("mednext-S", out_channels=3), deep_supervision=False)
    torch.save(content_of("mednext", network.state_dict()), tmp_path / "a.model")
    done = convert(tmp_path / "a.model", tmp_path / "out")
    assert (done.model, done.same) == ("mednext-S@1.0.0", ("mednext_custom",))
    assert (done.input_channels, done.output_channels) == (1, 3)
    assert verify([str(tmp_path / "out")], level="weights").passed, "it does not pretend to be what was released"


def test_a_prefix_is_not_taken_for_one_where_the_network_has_it_itself(tmp_path):
    state = build(resolve_model("monai_unet"), deep_supervision=False).state_dict()
    assert all(key.startswith("model.") for key in state)
    torch.save(content_of("pytc", state), tmp_path / "a.ckpt")
    done = convert(tmp_path / "a.ckpt", tmp_path / "out", model="monai_unet")
    assert (done.model, done.prefix) == ("monai_unet@1.0.0", "model.model.")
    assert read_weights(tmp_path / "out" / "model.safetensors").keys() == state.keys()


def test_models_that_compute_different_things_from_equal_tensors_are_not_chosen_between(add_spec, tmp_path):
    other = new_spec("plain-blocks", base="mednext-S", changes={"arch": {"residual": False}})
    add_spec("plain-blocks", text=spec_text(other, path=tmp_path / "plain-blocks.yaml"))
    torch.save(build(other, deep_supervision=True).state_dict(), tmp_path / "a.pt")
    message = "its tensors fit mednext-S, mednext_custom, plain-blocks, which compute different things: say which by"
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "out")
    assert convert(tmp_path / "a.pt", tmp_path / "out", model="plain-blocks").model == "plain-blocks@1.0.0"


def test_tensors_of_no_model_are_refused_with_the_nearest(state, tmp_path):
    network = build(resolve_model("mednext-S"), deep_supervision=True).state_dict()
    del network["stem.bias"]
    torch.save({**network, "new.weight": torch.ones(1)}, tmp_path / "a.pt")
    message = r"of no model here: of mednext-\S+ there are 1 missing \(stem.bias\), 1 unknown \(new.weight\)"
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "out")


def _misfits(state: State) -> dict[str, tuple[State, str]]:
    missing = {key: value for key, value in state.items() if key != "stem.weight"}
    wide = {**state, "enc_block_0.0.conv1.weight": torch.zeros(2, 1, 5, 5, 5)}
    endless = {**state, "stem.bias": torch.zeros(1).expand(10**12)}
    whole = {**state, "stem.weight": state["stem.weight"].long()}
    eighth = {**state, "stem.weight": state["stem.weight"].to(torch.float8_e4m3fn)}
    return {
        "a key is missing": (missing, r"not those of tiny: of tiny there are 1 missing \(stem.weight\); give the spec"),
        "a key is unknown": (
            {**state, "a.b": torch.ones(1)},
            r"of tiny there are 1 unknown \(a.b\); give the spec of their",
        ),
        "a shape differs": (wide, r"there are 1 of another shape \(enc_block_0.0.conv1.weight\);"),
        "a tensor is larger than its memory": (endless, r"there are 1 of another shape \(stem.bias\);"),
        "a type differs": (whole, r"stem.weight is of type torch.int64, in tiny of torch.float32, save it as that\.$"),
        "a type that is too narrow": (eighth, r"stem.weight is of type torch.float8_e4m3fn, in tiny of torch.float32"),
        "a half-removed prefix": (
            {("module." if key != "stem.weight" else "") + key: value for key, value in state.items()},
            r"not those of tiny: of tiny, under the prefix 'module.', there are 1 missing \(stem.weight\);",
        ),
        "another network": (
            {"a.weight": torch.ones(1)},
            r"no key is one of theirs \(a.weight\); give the spec of their network by --model\.$",
        ),
    }


@pytest.mark.parametrize("misfit", _misfits({key: torch.zeros(1) for key in ("stem.weight", "stem.bias")}))
def test_what_does_not_fit_the_model_is_refused_and_nothing_is_left(misfit, spec, state, tmp_path):
    content, message = _misfits(state)[misfit]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


NOT_TENSORS = {
    "a number": ({"a": 1.0, "b": torch.ones(1)}, r"no tensors where plain has them; it has 'a', 'b': save the"),
    "a number in a state dict": ({"state_dict": {"a": 1.0}}, "holds float as 'a', a state dict has tensors alone"),
    "an inert object": ({"state_dict": {"a": np.float64(1)}}, "holds Inert as 'a', a state dict has tensors alone"),
    "a key that is no name": ({"state_dict": {1: torch.ones(1)}}, "has the key 1, a state dict has names alone"),
    "a key of many characters": (
        {"state_dict": {"a" * 501: torch.ones(1)}},
        "has the key 'aaa.*, a state dict has names",
    ),
    "a key of several lines": ({"state_dict": {"a\nb": torch.ones(1)}}, "a state dict has names alone"),
    "too many tensors": (
        {"state_dict": dict.fromkeys(map(str, range(100_001)))},
        "has 100001 tensors, a network has at",
    ),
    "nothing but a loss": (
        {"state_dict": {"loss.weight": torch.ones(1)}, "pytorch-lightning_version": "2"},
        r"no key is one of theirs \(loss.weight\)",
    ),
    "a sparse tensor": ({"state_dict": {"a": torch.ones(2).to_sparse()}}, "a sparse, quantized or empty tensor as 'a'"),
    "a tensor without memory": ({"model": {"a": torch.ones(2, device="meta")}}, "quantized or empty tensor as 'a'"),
    "no tensors": ({"state_dict": {}}, "no tensors where plain has them; it has 'state_dict'"),
    "nothing": ({}, "it has nothing"),
    "a list": ([torch.ones(1)], "holds list, a checkpoint is a dictionary with tensors"),
}


@pytest.mark.parametrize("given", NOT_TENSORS)
def test_what_is_no_state_dict_is_refused(given, spec, tmp_path):
    content, message = NOT_TENSORS[given]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "out", model=spec)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": 0}, "trainer_name": "T"},
            "PlainConvUNet or Res",
        ),
        (
            {"network_weights": {"_orig_mod.eva.blocks.0.weight": 0}, "trainer_name": "T"},
            "nnU-Net's Primus, a transformer",
        ),
        (
            {"state_dict": {"conv_blocks_context.0.weight": 0}, "plot_stuff": ()},
            r"nnU-Net v1's own U-Net \(Generic_UNet\)",
        ),
        (
            {"state_dict": {"module.conv_in.0.weight": 0}, "iteration": 1},
            "PyTorch Connectomics' own U-Nets of version 1",
        ),
    ],
)
def test_networks_that_no_model_is_are_named(content, message, tmp_path):
    filled = {
        key: {name: torch.ones(1) for name in value} if isinstance(value, dict) else value
        for key, value in content.items()
    }
    torch.save(filled, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "out")


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Quiet:
    """A class that a pickle may name only where a map has it."""


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(legacy, spec, state, tmp_path):
    trap = tmp_path / "trap"
    torch.save(
        {**content_of("mednext", state), "more": Harmful(trap)},
        tmp_path / "a.model",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match=r"its pickle names '\S+', which could run code and is on no format's list"):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert not trap.exists()
    torch.load(tmp_path / "a.model", weights_only=False)
    assert trap.exists(), "the trap must be one"


def test_a_harmless_class_that_is_on_no_list_is_refused_even_if_other_code_permitted_it(spec, state, tmp_path):
    torch.save({"state_dict": state, "config": Quiet()}, tmp_path / "a.pt")
    with torch.serialization.safe_globals([Quiet]):
        with pytest.raises(WeightsError, match=r"names '[\w.]*test_run.Quiet', which could run code"):
            convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
        assert Quiet in torch.serialization.get_safe_globals()


def test_afterwards_as_much_is_permitted_as_before(spec, state, tmp_path):
    torch.save(content_of("mednext", state), tmp_path / "a.model")
    before = set(torch.serialization.get_safe_globals())
    convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_name_that_another_format_may_have_is_refused(spec, state, tmp_path):
    torch.save({**content_of("nnunet-v2", state), "path": pathlib.PurePosixPath("/a")}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"'pathlib.PurePosixPath', which no checkpoint of nnunet-v2 does"):
        convert(tmp_path / "a.pth", tmp_path / "out", model=spec)
    with pytest.raises(WeightsError, match=r"'pathlib.PurePosixPath', which could run code and is on no format's list"):
        convert(tmp_path / "a.pth", tmp_path / "out", model=spec, source_format="nnunet-v2")


def test_what_replaces_a_class_holds_nothing(spec, state, tmp_path, pytc_config, monkeypatch):
    torch.save(content_of("pytc-old", state, pytc_config), tmp_path / "a.ckpt")
    monkeypatch.undo()
    read = read_checkpoint(tmp_path / "a.ckpt", list(key_maps().values()))
    replaced = read.content["hyper_parameters"]["cfg"]
    assert type(replaced).__module__ == checkpoint_module.__name__
    assert vars(replaced) == {}
    assert "connectomics.config.hydra_config.Config" in read.pickled


@pytest.mark.parametrize("kind", ["mednext", "pytc-v1"])
def test_files_from_before_pytorch_1_6_are_read(kind, spec, state, tmp_path):
    torch.save(content_of(kind, state), tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "a.pth.tar")
    convert(tmp_path / "a.pth.tar", tmp_path / "out", model=spec)
    written = read_weights(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[key], state[key]) for key in state)


def _rewritten(content: bytes, *, compression: int = zipfile.ZIP_STORED, pickled: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled is not None and name.endswith("/data.pkl") else old.read(name))
    return stream.getvalue()


def _saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _tar(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pth"), io.BytesIO(content))
    return stream.getvalue()


def _zip(**records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return stream.getvalue()


def _flipped(content: bytes, *, of: bytes) -> bytes:
    place = content.index(of)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


GOOD = {"state_dict": {"a": torch.arange(100.0)}}
LEGACY = _saved(GOOD, _use_new_zipfile_serialization=False)
BAD_FILES = {
    "empty": (b"", "not a file that torch.save writes"),
    "text": (b"hello, world\n" * 50, "not a file that torch.save writes, give a checkpoint"),
    "a plain pickle": (pickle.dumps(GOOD), "not a file that torch.save writes"),
    "cut off": (_saved(GOOD)[:-100], r"not a readable checkpoint \(its end is missing or damaged\), get it again"),
    "cut in half": (_saved(GOOD)[: len(_saved(GOOD)) // 2], "not a readable checkpoint"),
    "cut off, legacy": (LEGACY[:-100], "not a readable checkpoint"),
    "cut off in the pickle, legacy": (LEGACY[:200], "not a readable checkpoint"),
    "a flipped bit": (
        _flipped(_saved(GOOD), of=torch.arange(100.0).numpy().tobytes()[8:]),
        r"damaged, its record '\S+' fails its checksum, get it again",
    ),
    "another pickle protocol": (
        _rewritten(_saved(GOOD), pickled=pickle.dumps({"a": 1}, protocol=4)),
        r"not a readable checkpoint \(Unsupported operand 149\)",
    ),
    "a pickle that ends early": (_rewritten(_saved(GOOD), pickled=b"\x80\x02}"), "not a readable checkpoint"),
    "compressed": (_rewritten(_saved(GOOD), compression=zipfile.ZIP_DEFLATED), "compressed, which torch.save does not"),
    "gzip": (gzip.compress(_saved(GOOD)), "a gzip file, unpack it and give the checkpoint that is in it"),
    "tar": (_tar(_saved(GOOD)), "a tar file, unpack it and give the checkpoint that is in it"),
    "a zip file of something else": (_zip(a_txt=b"x"), "a zip file that is no checkpoint, unpack it"),
    "TorchScript": (_zip(data_pkl=b"", constants_pkl=b""), "a TorchScript program, give the checkpoint"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(bad, tmp_path):
    content, message = BAD_FILES[bad]
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        convert(tmp_path / "a.pth", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"none.ckpt: there is no such file, check the path\.$"):
        convert(tmp_path / "none.ckpt", tmp_path / "out")
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    with pytest.raises(
        WeightsError, match=r"is a folder, and a checkpoint is one file: a sharded one \(FSDP, DeepSpeed\)"
    ):
        convert(folder, tmp_path / "out")
    (folder / "last.ckpt").touch()
    with pytest.raises(WeightsError, match=r"is a folder, .* give a file in it \(last.ckpt\)\.$"):
        convert(folder, tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(WeightsError, match=r"pipe.ckpt: is no regular file, check the path\.$"):
        convert(tmp_path / "pipe.ckpt", tmp_path / "out")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_PICKLE_BYTES", "its pickle is larger than the 10 bytes that one may have"),
        ("MAX_WEIGHTS_BYTES", "larger than the 10 bytes that weights may have, is it a checkpoint"),
    ],
)
def test_sizes_are_limited_before_anything_is_read(limit, message, tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(_saved(GOOD))
    monkeypatch.setattr(checkpoint_module, limit, 10)
    with pytest.raises(LimitError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "out")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_pickle_ends_in_our_error_or_in_data(data, tmp_path_factory):
    whole = _saved({"state_dict": {"a": torch.ones(3)}, "plot_stuff": ([np.float64(1)],)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = bytearray(archive.read("archive/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.pth"
    path.write_bytes(_rewritten(whole, pickled=bytes(pickled)))
    with suppress(ZooError):
        assert isinstance(read_checkpoint(path, list(key_maps().values())).content, dict)


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pth").write_bytes(_saved(GOOD))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"cannot be read \(Permission denied\), check its permissions\.$"):
        convert(tmp_path / "a.pth", tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(spec, state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out exists and is not overwritten, choose another name or place"):
        convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    with pytest.raises(OutputError, match="none: there is no such folder, make it first"):
        convert(tmp_path / "a.pt", tmp_path / "none" / "out", model=spec)


def test_a_format_that_was_named_must_be_the_right_one(spec, state, tmp_path):
    torch.save(content_of("mednext", state), tmp_path / "a.model")
    with pytest.raises(
        WeightsError, match="no checkpoint of nnunet-v2, which has network_weights and trainer_name; it has"
    ):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec, source_format="nnunet-v2")
    with pytest.raises(UnknownNameError, match="unknown format 'nnunet': did you mean 'nnunet-v2'"):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec, source_format="nnunet")
    assert convert(tmp_path / "a.model", tmp_path / "out", model=spec, source_format="plain").format == "plain"


def test_every_map_is_complete_and_names_are_closed():
    maps = key_maps()
    assert sorted(maps) == ["lightning", "mednext", "nnunet-v2", "plain", "pytc", "pytc-v1"]
    dangerous = ("os.system", "posix.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "torch.load")
    for key_map in maps.values():
        assert not [name for name in dangerous if key_map.allows(name)]
        own = [
            name for name in (*key_map.objects, *key_map.mappings) if name.startswith(("torch.", "connectomics_zoo"))
        ]
        assert not own
    assert is_under("connectomics.config.a.B", "connectomics.config.*")
    assert not is_under("connectomics.configuration.B", "connectomics.config.*")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rename": {}}, "rename: unknown key"),
        ({"objects": ["*"]}, "objects"),
        ({"objects": ["os"]}, "objects"),
        ({"tensors": []}, "tensors"),
    ],
)
def test_a_map_that_says_too_much_or_too_little_is_refused(changes, message):
    document = get_key_map("plain").model_dump(mode="json") | changes
    with pytest.raises(SpecError, match=message):
        validate(KeyMap, document, source="plain.yaml")


def test_the_command_reports_what_it_did(run_zoo, spec, state, tmp_path):
    (tmp_path / "tiny.yaml").write_text(spec_text(spec, path=tmp_path / "tiny.yaml"))
    torch.save(content_of("pytc", state), tmp_path / "a.ckpt")
    code, out, err = run_zoo("convert", tmp_path / "a.ckpt", tmp_path / "out", "--model", tmp_path / "tiny.yaml")
    assert code == 0
    assert err == "zoo: took the last weights, which lie in state_dict.\n"
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())
    assert facts["model"] == "tiny@1.0.0"
    assert facts["prefix removed"] == "model.model."
    assert facts["dropped"] == "loss_functions.1.pos_weight"
    assert facts["tensors"] == f"{len(state)}: {len(state)} float32"
    args = ("--model", tmp_path / "tiny.yaml", "--json", "--no-ema")
    code, out, _ = run_zoo("convert", tmp_path / "a.ckpt", tmp_path / "again", *args)
    assert code == 0
    assert json.loads(out)["tensors"] == len(state)


def test_the_command_refuses_in_one_line(run_zoo, tmp_path):
    (tmp_path / "a.ckpt").write_text("no checkpoint")
    code, out, err = run_zoo("convert", tmp_path / "a.ckpt", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("zoo: ")


def test_the_help_names_every_format(run_zoo):
    _, out, _ = run_zoo("convert", "--help")
    text = " ".join(out.split())
    assert [name for name in key_maps() if name not in text] == []


def test_parameters_are_taken_as_tensors(spec, state, tmp_path):
    torch.save(
        {key: nn.Parameter(value) if value.is_floating_point() else value for key, value in state.items()},
        tmp_path / "a.pt",
    )
    convert(tmp_path / "a.pt", tmp_path / "out", model=spec)
    assert read_weights(tmp_path / "out" / "model.safetensors").keys() == state.keys()


def test_attributes_that_a_tensor_brings_along_are_not_called(spec, state, tmp_path):
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in state.items()}
    for parameter in parameters.values():
        parameter.detach = {}
    torch.save(content_of("mednext", parameters), tmp_path / "a.model")
    convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_values_that_are_not_finite_are_refused(spec, state, tmp_path):
    damaged = {key: value.clone() for key, value in state.items()}
    next(iter(damaged.values())).flatten()[0] = float("nan")
    torch.save(content_of("mednext", damaged), tmp_path / "a.model")
    with pytest.raises(WeightsError, match="holds values that are not finite, its training has diverged"):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert not (tmp_path / "out").exists()
