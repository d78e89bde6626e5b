"""Checkpoints of other projects: converted exactly, read without running anything, refused in one sentence."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.checkpoints import FORMATS, State, content_of, prefixed
from torch import Tensor

import zoo
from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.convert.key_map import key_maps
from connectomics_zoo.convert.run import convert
from connectomics_zoo.errors import OutputError, UnknownNameError, WeightsError
from connectomics_zoo.network.build import build, measure_expectation
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.specs.spec_file import spec_text
from connectomics_zoo.verify.run import verify
from connectomics_zoo.weights.storage import read_weights


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


def test_values_that_are_not_finite_are_refused(spec, state, tmp_path):
    damaged = {key: value.clone() for key, value in state.items()}
    next(iter(damaged.values())).flatten()[0] = float("nan")
    torch.save(content_of("mednext", damaged), tmp_path / "a.model")
    with pytest.raises(WeightsError, match="holds values that are not finite, its training has diverged"):
        convert(tmp_path / "a.model", tmp_path / "out", model=spec)
    assert not (tmp_path / "out").exists()
