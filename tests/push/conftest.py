"""A trained run to push, and the spec of its model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.pushing import CREDIT, LICENSE
from support.tiny_training import TINY, request, write_volume

from connectomics_zoo.authoring.new import new_spec
from connectomics_zoo.specs.spec_file import write_spec
from connectomics_zoo.train import train


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a volume, a trained run in `run`, and the spec of its model."""
    folder = tmp_path_factory.mktemp("secretuser")
    changes = request(write_volume(folder / "volume.h5"))
    changes["data"] |= {"license": LICENSE, "attribution": CREDIT}
    changes["data"]["voxel_size_nm"] = [50.0, 4.6, 4.6]
    write_spec(new_spec("tiny", base="mednext-S", changes={"arch": TINY}), path=folder / "tiny.yaml")
    del changes["arch"]
    train(str(folder / "tiny.yaml"), changes, output=folder / "run", device="cpu")
    return folder


@pytest.fixture
def run(home, tmp_path):
    """A copy of the run, which a test may change."""
    return shutil.copytree(home / "run", tmp_path / "run")


@pytest.fixture
def spec_file(home, tmp_path):
    return Path(shutil.copy(home / "tiny.yaml", tmp_path / "tiny.yaml"))
