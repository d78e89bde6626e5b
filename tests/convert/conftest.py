"""A small network whose checkpoints are converted."""

from __future__ import annotations

import pytest
import torch

from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.network.build import build

TINY = {"base_channels": 2, "kernel_size": 3, "expansion_ratios": 1, "block_counts": [1] * 9}


@pytest.fixture(scope="package")
def spec():
    """A small MedNeXt with one input and two output channels."""
    return new_spec("tiny", base="mednext-S", changes={"arch": TINY, "training": {"patch_size": [16, 32, 32]}})


@pytest.fixture(scope="package")
def state(spec):
    """Its state dict, with all heads."""
    torch.manual_seed(0)
    return build(spec, deep_supervision=True).state_dict()
