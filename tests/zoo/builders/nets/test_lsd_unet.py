"""The U-Net of local shape descriptors: its authors' keys and numbers, legal sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from support.builder_checks import built, check_logits, check_size, configured, next_illegal, without_gradient, works

from connectomics_zoo.network.build import build_meta, count_parameters, fingerprint
from connectomics_zoo.network.seeding import seed_parameters, seeded_input
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.specs.lookup import get_spec, get_task

Arch = dict[str, Any]


def levels(strides: list[list[int]], *, upsampling: str) -> Arch:
    """Two features that triple at each level, whose first convolutions are flat."""
    return {
        "channels": [2 * 3**level for level in range(len(strides) + 1)],
        "last_channels": 5,
        "strides": strides,
        "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * len(strides)],
        "upsampling": upsampling,
    }


# Keys (of the network `unet` with a `ConvPass` called `head`) and numbers of the authors' UNet with padding "same"
# (github.com/funkelab/funlib.learn.torch, commit 228e15f, which no registry has): root mean square, and three values.
ANISO, TWICE = [[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 2, 2], [2, 2, 2]]
GOLDEN = [
    (
        levels(ANISO, upsampling="nearest"),
        "sha256:f18465af352879327088db3733fc47317624807de10e5f21233c18a9226a339b",
        (0.054266, -0.025337, -0.139229, 0.009993),
    ),
    (
        levels(TWICE, upsampling="nearest"),
        "sha256:6a2b37af98436c202eaf3c2d7fbe9af8279b579cde3e6d717c98231fdbd1a9fc",
        (0.057913, -0.149409, -0.116314, 0.019156),
    ),
    (
        levels(ANISO, upsampling="deconv"),
        "sha256:08bffa0f6660dc0331b6a4c055f534458eb85faea3cf18c46ac0d35295d88a48",
        (0.063993, -0.032333, -0.131605, 0.026945),
    ),
    (
        levels(TWICE, upsampling="deconv"),
        "sha256:9d3f128e931e82ce96d96639176b9ee2fbcfe34e69635869709995c47e876e19",
        (0.064684, -0.169075, -0.114395, 0.027448),
    ),
]


@pytest.mark.parametrize(("arch", "keys", "expected"), GOLDEN)
def test_keys_and_numbers_are_those_of_the_authors(arch, keys, expected):
    network = built("lsd_unet", arch, out_channels=3).eval()
    assert fingerprint(network) == keys
    seed_parameters(network)
    minimum = configured("lsd_unet", arch)[2].minimum
    flat = network(seeded_input((1, 1, *(2 * edge for edge in minimum)))).detach().double().flatten()
    measured = (flat.square().mean().sqrt(), flat[0], flat[flat.numel() // 2], flat[-1])
    assert [value.item() for value in measured] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("upsampling", ["nearest", "deconv"])
def test_legal_sizes_give_the_declared_output_and_every_parameter_a_gradient(upsampling):
    arch = levels([[1, 2, 2], [2, 3, 2]], upsampling=upsampling)
    _, _, interface = configured("lsd_unet", arch)
    assert interface.minimum == interface.step == (2, 6, 4)
    network = built("lsd_unet", arch)
    check_size(network, interface, (4, 12, 8), supervised=True)
    assert without_gradient(network) == []
    check_size(network, interface, interface.minimum, supervised=True)
    assert [size for size in next_illegal(interface) if works(network, size)] == []
    network.head.conv_pass[0].weight.data *= 100  # nothing normalises what comes to it
    check_logits(network, interface.minimum)


def test_the_published_network_pools_sections_last_and_ends_with_fourteen_features_for_the_thirteen_channels_of_lsd():
    spec = get_spec("lsd-unet-aniso")
    arch: Any = spec.arch
    assert [stride[0] for stride in arch.strides] == [1, 1, 3]
    assert spec.input.size.step == (3, 27, 27)
    assert arch.last_channels == 14
    assert len(get_task("lsd").channels) == 13
    true = count_parameters(build_meta(spec, deep_supervision=False))
    assert true / 2 < arch.approximate_parameters < true * 2


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"strides": [[1, 2, 2]]}, "strides has 1 entries and a network of 4 levels needs 3, give as many"),
        ({"kernel_sizes": [[3, 3, 3]] * 2}, "kernel_sizes has 2 entries and a network of 4 levels needs 4"),
        ({"strides": [[1, 1, 1]] * 3}, "strides are all 1, a U-Net needs a coarser level"),
        ({"channels": [8192] * 4}, "asks for about"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(arch, message):
    with pytest.raises(ValidationError) as caught:
        configured("lsd_unet", arch)
    assert message in describe_errors(caught.value)
