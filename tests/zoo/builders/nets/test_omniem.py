"""OmniEM: the keys and numbers of its authors' package, legal sizes, sections, and what is refused."""

from __future__ import annotations

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
    without_gradient,
    works,
)
from torch import nn

from connectomics_zoo.network.build import build_meta, count_parameters, fingerprint
from connectomics_zoo.network.seeding import seed_parameters
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.specs.lookup import get_spec

Arch = dict[str, Any]

TINY: Arch = {
    "hidden_size": 12,
    "depth": 5,
    "num_heads": 3,
    "grid_edge": 4,
    "adapter_channels": 4,
    "feature_size": 2,
    "image_mean": 0.5,
    "image_std": 0.25,
}
FLAT: Arch = TINY | {"spatial_dims": 2}


def original(monkeypatch: pytest.MonkeyPatch, arch: Arch, *, sections: int) -> nn.Module:
    """The package's own network, as small as `arch`, for so many sections."""
    reason = "the original is compared with where it is installed: pip install --no-deps -r tests/oracles.txt"
    module = pytest.importorskip("omniem.models.omniemv1_net", reason=reason)
    from omniem.encoders.dinov2.backbone import DinoVisionTransformer

    monkeypatch.setattr(module, "FEATURE_SIZE", arch["feature_size"])
    monkeypatch.setattr(module, "STADAPTER_CHANNELS", arch["adapter_channels"])
    backbone = DinoVisionTransformer(
        img_size=14 * arch["grid_edge"],
        patch_size=14,
        embed_dim=arch["hidden_size"],
        depth=arch["depth"],
        num_heads=arch["num_heads"],
        qkv_bias=True,
        drop_path_rate=0.3,
        drop_path_uniform=True,
        init_values=1e-5,
        block_chunks=0,
        interpolate_offset=0.1,
    )
    network: nn.Module = module.OmniEMV1Net(
        backbone,
        out_channels=2,
        img_z=sections,
        kernel3d_z=arch.get("kernel_z") if sections > 1 else None,
        resize4emdino=arch.get("token_edge") == 16,
    )
    return network


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        (TINY | {"kernel_z": 3}, (3, 28, 28)),
        (TINY | {"token_edge": 16}, (2, 112, 112)),
        (FLAT, (56, 56)),
        (FLAT | {"depth": 4}, (70, 70)),
    ],
    ids=["sections", "resized", "the-grid-of-the-embeddings", "another-grid"],
)
def test_keys_and_numbers_are_those_of_the_package(monkeypatch, arch, size):
    volume = (1, *size)[-3:]
    ours, theirs = built("omniem", arch).eval(), original(monkeypatch, arch, sections=volume[0]).eval()
    assert fingerprint(ours) == fingerprint(theirs)
    seed_parameters(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 1, *volume)
    with torch.no_grad():
        values = ours(x.view(2, 1, *size))
        expected = theirs(((x - 0.5) / 0.25).permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3).reshape(values.shape)
    assert expected.abs().max() > 1
    assert values.allclose(expected, atol=2e-5)


@pytest.mark.parametrize("arch", [TINY | {"kernel_z": 3}, FLAT, TINY | {"token_edge": 16}])
def test_legal_sizes_give_the_declared_output_and_every_parameter_a_gradient(arch):
    _, _, interface = configured("omniem", arch)
    network = built("omniem", arch)
    check_size(network, interface, interface.minimum, supervised=True)
    assert without_gradient(network) == []
    size = tuple(low + step for low, step in zip(interface.minimum, interface.step, strict=True))
    check_size(network, interface, (*size[:-1], 3 * size[-1]), supervised=True)
    if arch.get("token_edge") != 16:  # which is resized, whatever it is
        assert [size for size in next_illegal(interface) if works(network, size)] == []


def test_the_network_returns_raw_logits():
    check_logits(built("omniem", FLAT), (28, 28))


def test_fresh_adapters_keep_sections_apart_and_trained_ones_join_them():
    network = built("omniem", TINY)
    x = torch.rand(1, 1, 3, 28, 28)
    other = x.clone()
    other[:, :, 2] = torch.rand(28, 28)
    adapters = network.get_submodule("adapters")

    def differs() -> bool:
        seen: list[torch.Tensor] = []
        hook = network.get_submodule("vit.norm").register_forward_hook(lambda *args: seen.append(args[2]))
        with torch.no_grad():
            network.eval()(x), network.eval()(other)
        hook.remove()
        return not seen[0][0].equal(seen[1][0])

    assert not differs()
    with torch.no_grad():
        for adapter in adapters:
            adapter.conv.weight.normal_()
    assert differs()


def test_training_leaves_sections_out_at_random_and_prediction_none():
    network = built("omniem", TINY | {"dropout": 0.0})
    x = torch.rand(1, 1, 4, 14, 14)
    with torch.no_grad():
        for scale in (block.get_submodule(name) for block in network.vit.blocks for name in ("ls1", "ls2")):
            scale.gamma.fill_(1.0)
        torch.manual_seed(0)
        first = network.train()(x)
        assert not first.equal(network(x))
        assert network.eval()(x).equal(network(x))
        still = built("omniem", TINY | {"dropout": 0.0, "path_dropout": 0.0}).train()
        assert still(x).equal(still(x))


def test_the_mean_and_deviation_of_the_images_are_taken_away_inside():
    plain = built("omniem", FLAT | {"image_mean": 0.0, "image_std": 1.0})
    x = torch.rand(1, 1, 28, 28)
    with torch.no_grad():
        assert built("omniem", FLAT).eval()(x).allclose(plain.eval()((x - 0.5) / 0.25), atol=1e-5)


@pytest.mark.parametrize(("channels", "expected"), [(1, 3), (2, 2), (3, 3)])
def test_a_grey_image_is_repeated_and_other_channels_have_weights_of_their_own(channels, expected):
    builder, config, _ = configured("omniem", FLAT)
    network = builder.build(config, in_channels=channels, out_channels=2, deep_supervision=False).eval()
    assert network.vit.patch_embed.proj.in_channels == expected
    assert network(torch.rand(1, channels, 14, 14)).shape == (1, 2, 14, 14)


@pytest.mark.parametrize("name", ["omniem", "omniem-2d"])
def test_the_published_networks_have_a_large_vit(name):
    spec = get_spec(name)
    arch: Any = spec.arch
    network = build_meta(spec, deep_supervision=False)
    assert count_parameters(network.get_submodule("vit")) == 304_368_640  # of a ViT-L/14, as DINOv2 publishes it
    true = count_parameters(network)
    assert true / 2 < arch.approximate_parameters < true * 2


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"num_heads": 7}, "hidden_size 1024 is no multiple of num_heads 7, change either"),
        ({"spatial_dims": 2, "kernel_z": 3}, "kernel_z 3 needs sections: give spatial_dims 3, or kernel_z 1"),
        ({"hidden_size": 4096, "depth": 64}, "asks for about"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(arch, message):
    with pytest.raises(ValidationError) as caught:
        configured("omniem", arch)
    assert message in describe_errors(caught.value)
