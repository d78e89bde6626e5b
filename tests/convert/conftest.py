"""A small network whose checkpoints are converted, and a class that some of them need."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from support.checkpoints import Config

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


@pytest.fixture
def pytc_config(monkeypatch):
    """Pickles `Config` from the module that it had; when it is read, there is no such module."""
    for name in ("connectomics", "connectomics.config", "connectomics.config.hydra_config"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
    module.Config = Config  # type: ignore[attr-defined]
    return Config()
