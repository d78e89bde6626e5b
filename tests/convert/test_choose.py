"""Which network a checkpoint holds: under any prefix and place, averaged or last, and only where all of it is told."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from safetensors.torch import save_file
from support.checkpoints import State, prefixed
from torch import nn
from torch.optim.swa_utils import AveragedModel

import zoo
from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.convert.pick import names_average
from connectomics_zoo.convert.run import Conversion, convert
from connectomics_zoo.errors import WeightsError
from connectomics_zoo.network.build import build
from connectomics_zoo.specs.resolve import resolve_model
from connectomics_zoo.specs.spec_file import spec_text
from connectomics_zoo.verify.run import verify
from connectomics_zoo.weights.storage import read_weights


def halved(state: State) -> State:
    return {key: value / 2 for key, value in state.items()}


def converted(content: Any, folder: Path, **options: Any) -> tuple[Conversion, State]:
    """Save `content`, convert it, and return the report and the tensors that were written."""
    torch.save(content, folder / "a.pt")
    done = convert(folder / "a.pt", folder / "out", **options)
    return done, read_weights(folder / "out" / "model.safetensors")


def refusal(content: Any, folder: Path, **options: Any) -> str:
    torch.save(content, folder / "a.pt")
    with pytest.raises(WeightsError) as caught:
        convert(folder / "a.pt", folder / "out", **options)
    assert not (folder / "out").exists()
    return str(caught.value)


def equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# Averages


@pytest.mark.parametrize(
    ("last", "averages"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("model_state_dict", "ema_model_state_dict"),
        ("model", "swa_model"),
        ("net", "averagedModel"),
    ],
)
def test_averages_beside_the_last_state_are_taken_whatever_they_are_called(last, averages, spec, state, tmp_path):
    content = {"epoch": 3, last: state, averages: halved(state)}
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, halved(state))
    assert (done.averaged, done.place, done.left_aside) == (True, averages, (last,))


def test_the_last_state_is_taken_where_it_is_asked_for_and_the_averages_are_named(spec, state, tmp_path):
    content = {"state_dict": state, "state_dict_ema": halved(state)}
    done, written = converted(content, tmp_path, model=spec, averaged=False)
    assert equal(written, state)
    assert (done.averaged, done.left_aside) == (False, ("state_dict_ema",))


def test_averages_deeper_in_the_file_are_found(spec, state, tmp_path):
    content = {"model": state, "ema": {"module": halved(state), "updates": 3}}
    done, written = converted(content, tmp_path, model=spec, averaged=True)
    assert equal(written, halved(state))
    assert done.place == "ema/module"


def test_averages_within_one_state_dict_are_told_by_their_prefix(spec, state, tmp_path):
    content = prefixed("net.", state) | prefixed("ema_net.module.", halved(state))
    done, written = converted({"state_dict": content}, tmp_path, model=spec)
    assert equal(written, halved(state))
    assert (done.averaged, done.prefix) == (True, "ema_net.module.")
    assert set(done.dropped) == set(prefixed("net.", state))


def test_pytorchs_averaged_model_is_known_by_its_counter(spec, state, tmp_path):
    network = build(spec, deep_supervision=True)
    network.load_state_dict(state)
    done, written = converted(AveragedModel(network).state_dict(), tmp_path, model=spec)
    assert equal(written, state)
    assert (done.averaged, done.prefix, done.dropped) == (True, "module.", ("n_averaged",))
    message = refusal(AveragedModel(network).state_dict(), tmp_path / "..", model=spec, averaged=False)
    assert message.endswith("has averaged (EMA) weights alone, convert it without --no-ema.")


def test_averages_that_are_no_whole_network_are_named_as_left_aside(spec, state, tmp_path):
    content = {"model": state, "ema": {"decay": 0.9, "shadow_params": list(state.values())}}
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, state)
    assert (done.averaged, done.left_aside) == (False, ("ema",))


def test_averages_that_lack_tensors_are_left_aside_unless_they_are_asked_for(spec, state, tmp_path):
    part = {key: value for key, value in state.items() if "norm" not in key}
    content = {"model": state, "model_ema": part}
    message = refusal(content, tmp_path, model=spec, averaged=True)
    assert message.endswith(
        "its averaged (EMA) weights at model_ema are not the whole network, convert it without --ema."
    )
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, state)
    assert done.left_aside == ("model_ema",)


@pytest.mark.parametrize(
    ("name", "averages"),
    [("EMAWeights", True), ("model_ema", True), ("swa", True), ("schema", False), ("emanet", False), ("last", False)],
)
def test_averages_are_named_by_words(name, averages):
    assert names_average(name) is averages


# Prefixes and what lies beside the network


@pytest.mark.parametrize(
    ("prefix", "extras"),
    [
        ("model.", {"bce.pos_weight": torch.ones(1)}),
        ("model.", {"mean": torch.ones(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}),
        ("unet.", {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}),
        ("a.b_1.c.", {}),
        ("model." * 9, {}),
        ("", {"criterion.weight": torch.ones(2)}),
    ],
)
def test_the_longest_common_prefix_goes_and_what_is_not_under_it_is_named(prefix, extras, spec, state, tmp_path):
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": prefixed(prefix, state) | extras}
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, state)
    assert (done.prefix, done.dropped) == (prefix, tuple(extras))


def test_what_compilers_put_within_names_goes(spec, state, tmp_path):
    content = {f"net.{key.replace('enc_block_0.', 'enc_block_0._orig_mod.')}": value for key, value in state.items()}
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, state)
    assert done.prefix == "net."


def test_tensors_under_the_prefix_that_the_network_does_not_have_are_refused(spec, state, tmp_path):
    message = refusal(prefixed("net.", state | {"extra.weight": torch.ones(2, 2)}), tmp_path, model=spec)
    assert "of tiny, under the prefix 'net.', there are 1 unknown (net.extra.weight); give the spec of their" in message


def test_safetensors_with_a_prefix_convert_and_load_alike(spec, state, tmp_path):
    save_file(prefixed("model.", state), tmp_path / "a.safetensors")
    done = convert(tmp_path / "a.safetensors", tmp_path / "out", model=spec)
    assert (done.prefix, done.format, done.tensors) == ("model.", "plain", len(state))
    network = zoo.load(spec, init_from=tmp_path / "a.safetensors")
    assert equal(network.state_dict(), read_weights(tmp_path / "out" / "model.safetensors"))
    assert network.load_report.summary().endswith(f"{len(state)} exact; prefix 'model.' removed")


# Places


@pytest.mark.parametrize("place", ["net", "generator", "module", "my network"])
def test_the_one_mapping_with_the_network_is_taken_under_any_name(place, spec, state, tmp_path):
    content = {place: state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}, "epoch": 3}
    done, written = converted(content, tmp_path, model=spec)
    assert equal(written, state)
    assert (done.place, done.left_aside) == (place, ())


def test_of_several_networks_the_one_that_fits_is_taken_and_the_others_are_named(spec, state, tmp_path):
    content = {"generator": state, "discriminator": {"0.weight": torch.ones(2, 2)}}
    done, _ = converted(content, tmp_path, model=spec)
    assert (done.place, done.left_aside) == ("generator", ("discriminator",))


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        (lambda state: {"first": state, "second": halved(state)}, "first", "second"),
        (lambda state: {"state_dict": state, "model": halved(state)}, "state_dict", "model"),
        (
            lambda state: {"state_dict": prefixed("student.", state) | prefixed("teacher.", halved(state))},
            "state_dict/student",
            "state_dict/teacher",
        ),
        (lambda state: prefixed("student.", state) | prefixed("teacher.", halved(state)), "student", "teacher"),
    ],
)
def test_of_several_networks_that_fit_one_is_asked_for(content, first, second, spec, state, tmp_path):
    message = refusal(content(state), tmp_path, model=spec)
    assert message.endswith(f"holds 2 networks, at {first} and {second}, say which by --at {first}.")
    done, written = converted(content(state), tmp_path, model=spec, at=second)
    assert equal(written, halved(state))
    assert done.place in second
    assert done.left_aside or done.dropped


def test_a_network_that_is_there_twice_with_the_same_values_is_one(spec, state, tmp_path):
    done, written = converted({"model": state, "best": copy.deepcopy(state)}, tmp_path, model=spec)
    assert equal(written, state)
    assert done.left_aside == ("best",)


def test_a_place_that_is_not_there_is_refused_with_those_that_are(spec, state, tmp_path):
    message = refusal({"net": state}, tmp_path, model=spec, at="other")
    assert message.endswith("nothing lies at 'other'; tensors lie at net: give one of them to --at.")


# What tensors do not tell


@pytest.mark.parametrize(
    ("make", "model", "fields"),
    [
        (lambda: nets.VNet(3, 1, 2, act="relu"), "monai_vnet", {"activation": "elu"}),
        (lambda: build(resolve_model("mednext-S", arch={"norm": "layer"}), deep_supervision=True), "mednext-S", None),
        (lambda: build(resolve_model("mednext-S", arch={"residual": False}), deep_supervision=True), "mednext-S", None),
        (
            lambda: nets.SwinUNETR(1, 2, feature_size=48, downsample="mergingv2"),
            "monai_swin_unetr",
            {"patch_merging": "merging", "normalize": True},
        ),
    ],
    ids=["activation", "norm", "residual", "order"],
)
def test_where_tensors_do_not_tell_the_model_it_is_asked_for(make: Any, model, fields, tmp_path):
    fields = fields or {"norm": "group", "residual": True}
    network: nn.Module = make()
    message = refusal(network.state_dict(), tmp_path)
    values = ", ".join(f"{key} {str(value).lower() if value is True else value}" for key, value in fields.items())
    assert (
        f"its tensors fit {model} but do not tell {', '.join(fields)}: say --model {model} if that is right" in message
    )
    assert f"({values}), or give a spec that says otherwise (zoo new my-net --from {model} arch." in message
    done, _ = converted(network.state_dict(), tmp_path, model=model)
    assert done.assumed == fields


def test_the_original_mednext_tells_all_of_it_by_its_format(tmp_path):
    torch.manual_seed(0)
    network = build(resolve_model("mednext-S"), deep_supervision=False)
    done, _ = converted({"state_dict": network.state_dict(), "plot_stuff": ()}, tmp_path)
    assert (done.model, done.assumed) == ("mednext-S@1.0.0", {"norm": "group", "residual": True})


def test_a_spec_that_says_otherwise_is_taken_at_its_word(tmp_path):
    other = new_spec("relu-net", base="monai_vnet", changes={"arch": {"activation": "relu"}})
    path = tmp_path / "relu-net.yaml"
    path.write_text(spec_text(other, path=path))
    torch.manual_seed(0)
    original = nets.VNet(3, 1, 2, act="relu")
    done, _ = converted(original.state_dict(), tmp_path, model=path)
    assert done.assumed == {"activation": "relu"}
    x = torch.randn(1, 1, 16, 16, 32)
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "out")(x), original.eval()(x))


# Other implementations and other versions


def test_monais_mednext_becomes_ours(tmp_path):
    torch.manual_seed(0)
    original = nets.MedNeXtS(deep_supervision=True)
    done, _ = converted(prefixed("model.", original.state_dict()), tmp_path, model="mednext-S")
    assert (done.filled, done.absent, done.prefix, done.dropped) == (("dummy_tensor",), (), "model.", ())
    assert done.renamed == 216
    assert verify([str(tmp_path / "out")], level="weights").passed
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        ours, theirs = zoo.load(tmp_path / "out").train()(x), original.train()(x)
    for mine, other in zip(ours.values(), theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_monais_larger_mednexts_become_ours_with_its_ratios_of_the_downsamplings(tmp_path):
    ratios = {"base_channels": 2, "expansion_ratios": [2, 3, 4, 4, 4, 4, 4, 3, 2], "block_counts": [1] * 9}
    changes = {"training": {"patch_size": [16, 32, 32]}, "arch": ratios | {"down_expansion": "own"}}
    spec = new_spec("monai-like", base="mednext-S", changes=changes)
    torch.manual_seed(0)
    blocks = {"blocks_down": (1,) * 4, "blocks_bottleneck": 1, "blocks_up": (1,) * 4}
    expansion = {"encoder_expansion_ratio": (2, 3, 4, 4), "decoder_expansion_ratio": (4, 4, 3, 2)}
    original = nets.MedNeXt(
        init_filters=2, kernel_size=3, bottleneck_expansion_ratio=4, use_residual_connection=True, **blocks, **expansion
    )
    done, _ = converted(original.state_dict(), tmp_path, model=spec)
    assert done.filled == ("dummy_tensor",)
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        assert torch.allclose(zoo.load(tmp_path / "out")(x), original.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", ["before 1.4", "1.4 and 1.5"])
def test_unetrs_blocks_may_lack_the_inert_norm_and_bring_the_inert_attention(version, tmp_path):
    arch = {"img_size": [16, 16, 16], "feature_size": 2, "hidden_size": 8, "mlp_dim": 8, "num_heads": 2}
    spec = new_spec("small-unetr", base="monai_unetr", changes={"arch": arch, "training": {"patch_size": [16, 16, 16]}})
    torch.manual_seed(0)
    network = build(spec, deep_supervision=False).eval()
    state = network.state_dict()
    if version == "before 1.4":
        given = {key: value for key, value in state.items() if "norm_cross_attn" not in key}
    else:
        given = state | {"vit.blocks.0.cross_attn.to_q.weight": torch.ones(8, 8)}
    done, written = converted(given, tmp_path, model=spec)
    assert written.keys() == state.keys()
    assert set(done.filled) == state.keys() - given.keys()
    assert set(done.dropped) == given.keys() - state.keys()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(zoo.load(tmp_path / "out")(x), network(x))


def test_the_example_of_the_help_works_for_pytcs_rsunet(run_zoo, tmp_path, monkeypatch):
    _, out, _ = run_zoo("convert", "--help")
    assert "zoo convert last.ckpt my-rsunet --model ./my-rsunet.yaml --no-ema" in out
    lines = [line.strip() for line in out.partition("in Python:")[2].strip().splitlines()]
    config = {"model": {"architecture": "rsunet", "filters": [4, 8], "rsunet_norm": "group"}}
    monkeypatch.chdir(tmp_path)
    scope = {"config": config, "zoo": zoo}
    exec("\n".join(lines), scope)
    state = scope["network"].state_dict()
    torch.save(
        {"pytorch-lightning_version": "2.6.0", "pytc_metadata": {}, "state_dict": prefixed("model.", state)}, "a.pt"
    )
    code, out, err = run_zoo("convert", "a.pt", "my-rsunet", "--model", "./my-rsunet.yaml", "--no-ema")
    assert (code, err) == (0, "zoo: took the last weights, which lie in state_dict.\n")
    assert equal(read_weights(Path("my-rsunet/model.safetensors")), state)
    assert re.search(r"as the model says +norm group, num_groups 8, activation relu", out)
