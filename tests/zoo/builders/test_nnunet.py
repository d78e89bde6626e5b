"""nnU-Net's networks: the same function as the originals for the same weights, the contract, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.builder_checks import (
    built,
    check_logits,
    check_size,
    configured,
    next_illegal,
    predict,
    without_gradient,
    works,
)
from support.nnunet import BOTTLENECK, PLAIN, PLANAR, RESIDUAL, TINY, original_unet
from support.record_primus import CASES, FILE, STEP

from connectomics_zoo.network.build import build
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.schema.builder import encoder_modules
from connectomics_zoo.specs.resolve import resolve_model

PRIMUS: dict[str, Any] = CASES["cubes"]


@pytest.mark.parametrize("arch", TINY, ids=lambda arch: "-".join(sorted(arch))[:40])
def test_a_unet_computes_what_the_original_does_for_the_same_weights(arch):
    original = original_unet(arch, deep_supervision=True)
    network = built("nnunet_unet", arch)
    theirs = original.state_dict()
    unique = {key for key in theirs if ".all_modules." not in key and not key.startswith("decoder.encoder.")}
    assert network.state_dict().keys() == unique
    network.load_state_dict({key: theirs[key] for key in unique})
    _, config, interface = configured("nnunet_unet", arch)
    x = torch.randn(2, 1, *interface.minimum)
    if config.dropout == 0:
        outputs = network.train()(x)
        expected = original.train()(x)
        assert len(outputs) == len(expected) == len(interface.outputs)
        for mine, other in zip(outputs.values(), expected, strict=True):
            assert torch.equal(mine, other)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), original.eval()(x)[0])
    sizes = [
        tuple(edge // step for edge, step in zip(interface.minimum, item.stride, strict=True))
        for item in interface.outputs
    ]
    assert sizes == [tuple(value.shape[2:]) for value in original(x)]


def test_a_unet_begins_as_the_original_does():
    """The same distribution of each tensor, by its mean and spread; residual blocks begin as the way around them."""
    arch = RESIDUAL | {"channels": [24, 32, 32]}
    original = original_unet(arch)
    original.apply(original.initialize)
    theirs = original.state_dict()
    for key, value in built("nnunet_unet", arch).state_dict().items():
        other = theirs[key]
        assert bool(value.any()) == bool(other.any()), key
        if value.numel() >= 500:
            assert value.std().item() == pytest.approx(other.std().item(), rel=0.2), key
        elif "norm" in key:
            assert torch.equal(value, other), key


@pytest.mark.parametrize("name", CASES)
def test_primus_computes_what_was_recorded_of_the_original_for_the_same_weights(name):
    record = json.loads(FILE.read_text())[name]
    network = built("nnunet_primus", CASES[name], out_channels=3).eval()
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == record["state"]
    seed_parameters(network)
    with torch.no_grad():
        output = network(seeded_input((2, 1, *CASES[name]["img_size"])))
    assert list(output.shape) == record["shape"]
    torch.testing.assert_close(output.flatten()[::STEP], torch.tensor(record["values"]), rtol=1e-4, atol=1e-5)


def test_primus_leaves_blocks_out_for_a_sample_in_training_alone():
    network = built("nnunet_primus", PRIMUS | {"path_dropout": 0.5})
    seed_parameters(network)
    x = torch.randn(1, 1, *PRIMUS["img_size"]).expand(8, -1, -1, -1, -1)
    outputs = network.train()(x)
    assert not torch.allclose(outputs[0], outputs[1:].mean(0), atol=1e-3)
    outputs = network.eval()(x)
    assert torch.allclose(outputs[0], outputs[1:].mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("builder", "arch"), [("nnunet_unet", RESIDUAL), ("nnunet_unet", PLANAR), ("nnunet_primus", PRIMUS)]
)
def test_a_network_keeps_the_contract_at_its_legal_sizes_and_no_others(builder, arch):
    _, config, interface = configured(builder, arch)
    network = built(builder, arch)
    check_size(network, interface, interface.minimum, supervised=True)
    assert without_gradient(network) == []
    assert [size for size in next_illegal(interface) if works(network, size)] == []
    for name in encoder_modules(builder, config) or ():
        network.get_submodule(name)
    check_logits(network, interface.minimum)


def test_the_weights_of_the_scales_are_those_of_the_loss_of_nnunet():
    _, _, interface = configured("nnunet_unet", {})
    assert [output.loss_weight for output in interface.outputs] == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert sum(output.loss_weight for output in interface.outputs) == pytest.approx(1)
    _, _, shallow = configured("nnunet_unet", BOTTLENECK | {"channels": [4, 4], **shallow_fields()})
    assert [output.loss_weight for output in shallow.outputs] == [1.0]


def shallow_fields() -> dict[str, Any]:
    return {
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[2, 2, 2]],
        "encoder_blocks": [1, 1],
        "decoder_blocks": [1],
        "bottleneck_channels": None,
    }


def test_m_l_and_xl_are_one_network_that_is_trained_on_larger_and_larger_patches():
    specs = [resolve_model(f"nnunet-resenc-{size}") for size in ("M", "L", "XL")]
    assert len({spec.arch.model_dump_json() for spec in specs}) == 1
    edges = [spec.training.patch_size for spec in specs]
    assert edges == sorted(edges)
    assert len(set(edges)) == 3


def test_a_tiny_unet_without_deep_supervision_takes_the_weights_of_one_with_it():
    spec = resolve_model("nnunet-plain", arch=PLAIN)
    full = build(spec, deep_supervision=True)
    single = build(spec, deep_supervision=False)
    keys = full.state_dict().keys() - single.state_dict().keys()
    assert keys == {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}
    single.load_state_dict({key: value for key, value in full.state_dict().items() if key not in keys})
    size = spec.input.size.minimum
    assert torch.equal(predict(full, size), predict(single, size))


@pytest.mark.parametrize(
    ("builder", "arch", "message"),
    [
        ("nnunet_unet", {"channels": [4, 4]}, "kernel_sizes has 6 entries and a network of 2 levels needs 2"),
        ("nnunet_unet", PLAIN | {"stem_channels": 3}, "stem_channels has no effect with encoder 'plain', leave it out"),
        ("nnunet_unet", RESIDUAL | {"activation_first": True}, "activation_first needs encoder 'plain'"),
        ("nnunet_unet", RESIDUAL | {"strides": [[2, 2]] * 2}, "entries of 2 and of 3 axes"),
        ("nnunet_unet", {"channels": [8192] * 6}, "parameters, at most 1e"),
        ("nnunet_primus", {"img_size": [96, 96, 100]}, r"img_size \[96, 96, 100\] is no multiple of token_size"),
        ("nnunet_primus", {"token_size": [8, 8, 6]}, r"token_size \[8, 8, 6\] must be powers of two"),
        ("nnunet_primus", {"embed_dim": 384}, r"embed_dim 384 is no multiple of 6 \* num_heads \(36\)"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused_in_a_sentence(builder, arch, message):
    with pytest.raises((ValidationError, ValueError), match=message):
        configured(builder, arch)
