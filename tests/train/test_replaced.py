"""A volume that takes the place of an experiment's takes with it what the experiment says of the old one."""

from __future__ import annotations

import pytest
from support.tiny_training import write_volume

from connectomics_zoo.schema.experiment import Region
from connectomics_zoo.train.resolve import resolve_run


@pytest.fixture
def volume(tmp_path):
    return write_volume(tmp_path / "v.h5")


OLD = (
    "schema_version: 1\nname: own\nsummary: Own.\nmodel: mednext-S\ntask: mito\n"
    "data:\n  root: ???\n  license: MIT\n  attribution: Somebody\n  voxel_size_nm: [50, 4, 4]\n"
    "  train: {image: 'old.h5:raw', label: 'old.h5:mito', region: {z: [0, 3]}}\n"
    "  validation: {image: 'old.h5:raw', label: 'old.h5:mito', region: {z: [3, 5]}}\n"
    "training: {patch_size: [16, 32, 32]}\n"
)


def test_a_replaced_volume_takes_its_region_licence_and_attribution_with_it(volume, tmp_path, caplog):
    (tmp_path / "own.yaml").write_text(OLD)
    pair = {"image": f"{volume}:raw", "label": f"{volume}:mito"}
    arch = {"base_channels": 2}
    run = resolve_run(str(tmp_path / "own.yaml"), {"arch": arch, "data": {"train": pair, "validation": pair}})
    assert run.data.train[0].region == run.data.validation[0].region == Region()
    assert run.data.model_dump(include={"license", "attribution", "voxel_size_nm", "root"}) == {
        "license": None,
        "attribution": None,
        "voxel_size_nm": None,
        "root": None,
    }
    assert "data.train.0.region" in caplog.text
    given = {"train": {**pair, "region": {"z": [0, 2]}}, "validation": [pair], "license": "CC0-1.0"}
    run = resolve_run(str(tmp_path / "own.yaml"), {"arch": arch, "data": given})
    assert (run.data.train[0].region.z, run.data.license) == ((0, 2), "CC0-1.0")


def test_a_volume_that_stays_keeps_what_is_said_of_it(volume, tmp_path):
    (tmp_path / "own.yaml").write_text(OLD.replace("old.h5", "v.h5"))
    pair = {"image": f"{volume}:raw", "label": f"{volume}:mito"}
    arch, root = {"base_channels": 2}, str(tmp_path)
    kept = resolve_run(str(tmp_path / "own.yaml"), {"arch": arch, "data": {"root": root}}).data
    assert (kept.train[0].region.z, kept.license, kept.voxel_size_nm) == ((0, 3), "MIT", (50, 4, 4))
    mixed = resolve_run(str(tmp_path / "own.yaml"), {"arch": arch, "data": {"root": root, "train": pair}}).data
    assert (mixed.train[0].region.z, mixed.validation[0].region.z) == (None, (3, 5))
    assert (mixed.license, mixed.voxel_size_nm) == (None, (50, 4, 4))
