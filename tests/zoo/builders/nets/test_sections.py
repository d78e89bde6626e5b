"""The 2.5-D way: which sections are seen, and that it is the 2-D network in the middle of them, whatever the window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.builder_checks import built, check_logits, check_size, configured, without_gradient

from connectomics_zoo.fit.receptive_field import measure_reach
from connectomics_zoo.network.build import fingerprint
from connectomics_zoo.schema.base import describe_errors
from connectomics_zoo.specs.resolve import resolve_model
from zoo.builders.nets.sections import neighbours_as_channels

Arch = dict[str, Any]

FLAT: Arch = {
    "base_channels": 2,
    "kernel_size": 3,
    "expansion_ratios": 1,
    "block_counts": [1] * 9,
    "spatial_dims": 2,
}
TINY: Arch = FLAT | {"sections": 5}


def test_each_section_comes_with_its_neighbours_and_the_outermost_are_seen_alone():
    x = torch.rand(2, 3, 8, 5, 6)
    seen = neighbours_as_channels(x, 5).reshape(2, 4, 3, 5, 5, 6)
    for z in range(4):
        torch.testing.assert_close(seen[:, z], x[:, :, z : z + 5], rtol=0, atol=0)


def test_no_prediction_depends_on_where_windows_lie_along_z():
    network = built("mednext", TINY).eval()
    x = torch.rand(1, 1, 12, 32, 32)
    with torch.no_grad():
        whole, parts = network(x), [network(x[:, :, z : z + 6]) for z in (0, 2, 4, 6)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("supervised", [True, False])
def test_each_section_is_what_the_2d_network_says_of_its_neighbours(supervised):
    volumes = built("mednext", TINY, deep_supervision=supervised)
    builder, config, _ = configured("mednext", FLAT)
    images = builder.build(config, in_channels=5, out_channels=2, deep_supervision=supervised)
    assert fingerprint(volumes) == fingerprint(images)
    images.load_state_dict(volumes.state_dict())
    x = torch.rand(1, 1, 7, 32, 48)
    found, expected = volumes(x), images(x[:, 0, 1:6])
    if supervised:
        assert [tuple(value.shape[2:]) for value in found.values()] == [(3, 32 >> n, 48 >> n) for n in range(5)]
    pairs = zip(found.values(), expected.values(), strict=True) if supervised else [(found, expected)]
    assert all(ours[:, :, 1].allclose(theirs, atol=1e-6) for ours, theirs in pairs)


def test_legal_sizes_give_the_declared_outputs_and_every_parameter_a_gradient():
    _, _, interface = configured("mednext", TINY)
    assert (interface.axes, interface.minimum, interface.step) == ("zyx", (5, 32, 32), (1, 16, 16))
    assert interface.context == (2, 0, 0)
    network = built("mednext", TINY)
    check_size(network, interface, (5, 32, 32), supervised=True)
    assert [name for name in without_gradient(network) if name != "dummy_tensor"] == []
    check_size(network, interface, (7, 32, 48), supervised=True)
    check_logits(network, (6, 32, 32))


def test_a_section_depends_on_its_neighbours_and_on_as_much_of_them_as_in_2d():
    arch = {name: TINY[name] for name in ("base_channels", "expansion_ratios", "block_counts")}
    volumes, images = (measure_reach(resolve_model(f"mednext-S-{kind}", arch=arch)) for kind in ("25d", "2d"))
    assert volumes.field == (5, *images.field)
    assert volumes.halo == (2, *images.halo)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (FLAT | {"sections": 4}, "sections 4 is even, none of them is in the middle: give an odd number"),
        (TINY | {"spatial_dims": 3}, "sections 5 are the channels of a 2-D network: give spatial_dims 2, too"),
        (TINY | {"backend": "nnunet_mednext"}, "backend 'nnunet_mednext' sees one section, use backend 'native'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(arch, message):
    with pytest.raises(ValidationError) as caught:
        configured("mednext", arch)
    assert message in describe_errors(caught.value)
