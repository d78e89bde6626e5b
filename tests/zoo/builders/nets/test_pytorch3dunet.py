"""The U-Nets of pytorch-3dunet: its keys and numbers, outputs, legal sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.builder_checks import built, check_logits, check_size, configured, next_illegal, without_gradient, works

from connectomics_zoo.network.build import build_meta, count_parameters, fingerprint
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.specs.lookup import get_spec

Arch = dict[str, Any]

TINY: Arch = {"channels": [4, 8, 16], "num_groups": 2}
CASES: list[tuple[str, Arch]] = [
    ("UNet3D", TINY),
    ("UNet3D", TINY | {"layer_order": "bcl"}),
    ("UNet3D", TINY | {"layer_order": "crd", "dropout": 0.5}),
    ("UNet3D", TINY | {"layer_order": "cge", "upsampling": "linear"}),
    ("UNet3D", TINY | {"upsampling": "deconv"}),
    ("UNet2D", TINY | {"spatial_dims": 2}),
    ("ResidualUNet3D", TINY | {"block": "residual"}),
    ("ResidualUNet3D", TINY | {"block": "residual", "layer_order": "cbl"}),
    ("ResidualUNet2D", TINY | {"block": "residual", "layer_order": "gcrd", "spatial_dims": 2}),
    ("ResidualUNetSE3D", TINY | {"block": "residual-se", "layer_order": "gce"}),
]


def original(name: str, arch: Arch) -> Any:
    """The package's own network, with as many output channels as `built` gives."""
    reason = "the original is compared with where it is installed: pip install --no-deps -r tests/oracles.txt"
    classes = pytest.importorskip("pytorch3dunet.unet3d.model", reason=reason)
    return getattr(classes, name)(
        1,
        2,
        f_maps=arch["channels"],
        layer_order=arch.get("layer_order", "gcr"),
        num_groups=arch["num_groups"],
        upsample={None: "default", "linear": "trilinear"}.get(arch.get("upsampling"), arch.get("upsampling")),
        dropout_prob=arch.get("dropout", 0.1),
    )


@pytest.mark.parametrize(("name", "arch"), CASES)
def test_keys_and_numbers_are_those_of_the_package(name, arch):
    ours, theirs = built("pytorch3dunet", arch), original(name, arch)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert fingerprint(ours) == fingerprint(theirs)
    theirs.load_state_dict(ours.state_dict())
    minimum = configured("pytorch3dunet", arch)[2].minimum
    for size in (minimum, tuple(edge + 3 for edge in minimum)):
        x = torch.randn(2, 1, *size)
        for training in (True, False):  # which moves running statistics of both alike
            torch.manual_seed(2)
            values = ours.train(training)(x)
            torch.manual_seed(2)
            assert values.equal(theirs.train(training)(x, return_logits=True)[1])


@pytest.mark.parametrize("arch", list(dict(reversed(CASES)).values()))  # one of each class
def test_legal_sizes_give_the_declared_output_and_every_parameter_a_gradient(arch):
    _, _, interface = configured("pytorch3dunet", arch)
    network = built("pytorch3dunet", arch)
    check_size(network, interface, interface.minimum, supervised=True)
    assert without_gradient(network) == []
    assert [size for size in next_illegal(interface) if works(network, size)] == []


def test_the_network_returns_raw_logits():
    check_logits(built("pytorch3dunet", TINY), (4, 4, 8))


@pytest.mark.parametrize("name", ["pytorch3dunet", "pytorch3dunet-residual", "pytorch3dunet-residual-se"])
def test_the_estimate_behind_the_limit_is_right_to_a_factor_of_two(name):
    spec = get_spec(name)
    arch: Any = spec.arch
    true = count_parameters(build_meta(spec, deep_supervision=False))
    assert true / 2 < arch.approximate_parameters < true * 2


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"layer_order": "rc"}, "layer_order: String should match pattern"),
        ({"layer_order": "gcb"}, "layer_order 'gcb' has two norms, leave one out"),
        ({"block": "residual", "upsampling": "nearest"}, "block 'residual' has upsampling 'deconv' alone"),
        ({"block": "residual", "dropout": 0.2}, "block 'residual' has dropout 0.1 alone, leave 0.2 out"),
        ({"block": "residual-se", "spatial_dims": 2}, "block 'residual-se' is 3-D, give spatial_dims 3"),
        ({"channels": [12, 24]}, "num_groups 8 does not divide 12 channels, change either"),
        ({"channels": [8192] * 4}, "asks for about"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(arch, message):
    with pytest.raises(ValidationError) as caught:
        configured("pytorch3dunet", arch)
    assert message in describe_errors(caught.value)
