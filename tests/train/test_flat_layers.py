"""Networks that take volumes and have 2-D layers train, validate and predict: 2.5-D ones, transformers of sections."""

from __future__ import annotations

import h5py
from support.tiny_training import TINY, request, write_volume

from connectomics_zoo.predict import predict
from connectomics_zoo.train import train
from connectomics_zoo.volumes import open_volume


def trained(folder, model, arch, **training):
    """A volume of twenty sections, and the folder of a run of two steps on it."""
    path = write_volume(folder / "v.h5")
    asked = request(path, max_steps=2, **training) | {"arch": arch}
    return path, train(model, asked, output=folder / "run", device="cpu").folder


def test_a_25d_network_predicts_the_same_whatever_the_windows_are_along_z(tmp_path):
    path, run = trained(tmp_path, "mednext-S-25d", TINY, patch_size=[8, 32, 32])
    found = []
    for sections in (6, 24):  # of which 2 and 20 are predicted
        predict(
            run, f"{path}:raw", tmp_path / f"{sections}.h5", window=(sections, 32, 32), overlap=0.5, dtype="float32"
        )
        with h5py.File(tmp_path / f"{sections}.h5") as file:
            found.append(file["main"][...])
    assert found[0].std() > 0
    assert abs(found[0] - found[1]).max() < 1e-6


def test_a_transformer_of_sections_trains_and_predicts(tmp_path):
    arch = {"hidden_size": 16, "depth": 4, "num_heads": 2, "adapter_channels": 4, "feature_size": 2, "grid_edge": 3}
    path, run = trained(tmp_path, "omniem", arch, patch_size=[4, 28, 28])
    predict(run, f"{path}:raw", tmp_path / "out.h5")
    with open_volume(tmp_path / "out.h5") as volume:
        assert volume.shape == (20, 40, 40)
