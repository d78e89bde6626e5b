"""How far a network sees, against intervals worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from connectomics_zoo.fit import receptive_field
from connectomics_zoo.fit.receptive_field import measure_reach
from connectomics_zoo.schema.model import InputSpec, SizeRule


def reach(monkeypatch, network, *, step=(2, 2, 2), minimum=(2, 2, 4)):
    monkeypatch.setattr(receptive_field, "build", lambda *_, **__: network)
    spec = SimpleNamespace(input=InputSpec(axes="zyx", channels=1, size=SizeRule(minimum=minimum, step=step)))
    return measure_reach(spec)


def test_the_receptive_field_is_that_of_the_intervals(monkeypatch):
    network = nn.Sequential(
        nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1)),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv3d(4, 4, 3, stride=2, padding=1, groups=4),
        nn.Conv3d(4, 8, 3, padding=1),
        nn.LeakyReLU(),
        nn.ConvTranspose3d(8, 4, 2, stride=2),
        nn.Conv3d(4, 2, (1, 3, 3), padding=(0, 1, 1)),
    )
    found = reach(monkeypatch, network)
    # An output 2m of y depends on the fine voxels 2m - 1 to 2m + 1, so on the coarse ones m - 1 and m, of which the
    # convolution makes m - 2 to m + 1, those of the stride 2m - 5 to 2m + 3, and the first one 2m - 6 to 2m + 4.
    # An output 2m of z depends on m, m - 1 to m + 1, and 2m - 3 to 2m + 3; so does 2m + 1.
    assert found.field == (7, 11, 11)
    assert found.halo == (4, 6, 6)


def test_pooling_sums_and_joined_channels_are_ways(monkeypatch):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Conv3d(1, 3, 1), nn.Conv3d(1, 3, 5, padding=2)
            self.pool, self.up = nn.MaxPool3d(2), nn.Upsample(scale_factor=2)

        def forward(self, x):
            near = self.near(x)
            near += self.near(x)
            return torch.cat([near, self.up(self.pool(self.far(x)))], dim=1)

    found = reach(monkeypatch, Joined())
    # Two voxels are pooled, each of which sees two more on either side.
    assert found == ((6, 6, 6), (3, 3, 3))


def test_where_everything_is_seen_there_is_no_number(monkeypatch):
    class Mean(nn.Module):
        def forward(self, x):
            return x + x.mean((2, 3, 4), keepdim=True)

    class Shift(nn.Module):
        def forward(self, x):
            return x * 2

    monkeypatch.setattr(receptive_field, "LONGEST", 256)
    whole = nn.Sequential(nn.Conv3d(1, 1, 1), Mean())
    assert reach(monkeypatch, whole) == ((None,) * 3, (None,) * 3)
    one_size = reach(monkeypatch, nn.Sequential(nn.Conv3d(1, 1, 1), Shift()), step=(65536,) * 3, minimum=(64,) * 3)
    assert one_size.field == (None,) * 3


@pytest.mark.parametrize("name", ["monai_attention_unet"])
def test_what_is_recorded_is_what_is_measured(name):
    from connectomics_zoo import catalog
    from connectomics_zoo.specs.costs import read_costs
    from connectomics_zoo.specs.lookup import get_spec

    spec = get_spec(name)
    recorded = read_costs(catalog.catalogs()[0])[spec.reference]
    assert measure_reach(spec) == (recorded.receptive_field, recorded.halo)
