"""CellMap's U-Net: the original's numbers with its own weights, its context, and that it is equivariant to shifts."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from support.builder_checks import built, configured, next_illegal, train_step, without_gradient, works
from support.cellmap_original import CASES, original
from support.valid_network import ARCH
from torch.nn import functional as F

from connectomics_zoo.network.seeding import seed_parameters
from connectomics_zoo.schema.base import describe_errors


@pytest.mark.parametrize("case", CASES)
def test_the_original_s_weights_load_and_give_its_numbers(case):
    arch = CASES[case]
    theirs = original(arch)
    seed_parameters(theirs)
    _, _, interface = configured("cellmap", arch)
    ours = built("cellmap", arch).eval()
    ours.load_state_dict(theirs.state_dict())
    pooling = arch["output_stride"]
    for steps in (0, 1):
        size = [low + steps * step for low, step in zip(interface.minimum, interface.step, strict=True)]
        seen = torch.randn(1, 1, *(edge // factor for edge, factor in zip(size, pooling, strict=True)))
        image = F.interpolate(seen, scale_factor=list(map(float, pooling)))
        with torch.no_grad():
            expected, found = theirs(seen), ours(image)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        given = [edge - 2 * more for edge, more in zip(size, interface.context, strict=True)]
        assert list(found.shape[2:]) == given
        assert found.std() > 1e-3


def test_every_parameter_is_trained_and_what_is_not_legal_does_not_run():
    _, _, interface = configured("cellmap", ARCH)
    network = built("cellmap", ARCH)
    train_step(network, interface.minimum)
    assert without_gradient(network) == []
    for size in next_illegal(interface):
        assert not works(built("cellmap", ARCH), size)


def test_what_is_said_moves_with_the_image_by_its_strides_and_lies_in_its_middle():
    arch = CASES["transposed"]
    _, _, interface = configured("cellmap", arch)
    network = built("cellmap", arch).eval()
    seed_parameters(network)
    steps = zip(interface.minimum, interface.step, strict=True)
    image = torch.randn(1, 1, *(low + step for low, step in steps))
    with torch.no_grad():
        whole = network(image)
        first = network(image[..., : interface.minimum[0], : interface.minimum[1], : interface.minimum[2]])
        last = network(image[..., -interface.minimum[0] :, -interface.minimum[1] :, -interface.minimum[2] :])
    size = first.shape[2:]
    torch.testing.assert_close(first, whole[..., : size[0], : size[1], : size[2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, whole[..., -size[0] :, -size[1] :, -size[2] :], rtol=1e-4, atol=1e-5)
    # What lies before and behind what is said is as much: a network with equal weights says the same of a mirrored one.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1 / max(1, parameter[0].numel()))
    mirrored = network(image.flip(4)).flip(4)
    torch.testing.assert_close(network(image), mirrored, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [[1, 2, 2]] * 2}, "strides has 2 entries and a network of 2 levels needs 1"),
        ({"up_channels": [3, 3]}, "up_channels has 2 entries and a network of 2 levels needs 1"),
        ({"head_channels": 5}, "head_channels has no effect without head_kernel_sizes"),
        ({"channels": [8192, 8192], "up_channels": [8192]}, "asks for about"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValidationError) as error:
        configured("cellmap", ARCH | changes)
    assert message in describe_errors(error.value)


def test_the_published_sizes_are_legal():
    """The COSEM networks were applied to 216 voxels, of which one at 4 nm gives 32; fly_organelles gives 56 of 178."""
    from connectomics_zoo.specs.lookup import get_spec

    for name, seen, given in (("cellmap-cosem", 216, 32), ("cellmap-fly", 178, 56)):
        rule = get_spec(name).input
        assert rule.size.allows((seen,) * 3)
        assert rule.given((seen,) * 3) == (given,) * 3
