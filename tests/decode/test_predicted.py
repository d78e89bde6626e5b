"""What `zoo predict` writes for a task of objects is what `zoo decode` reads."""

from __future__ import annotations

import numpy as np
import pytest
from support.prediction import grey, make_run, write

from connectomics_zoo.decode import decode
from connectomics_zoo.errors import OutputError
from connectomics_zoo.predict import predict
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import open_volume
from connectomics_zoo.volumes.values import read_values


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a run for `mito-instance` and an image."""
    folder = tmp_path_factory.mktemp("objects")
    make_run(folder / "run", task=get_task("mito-instance"))
    write(folder / "image.h5", grey((16, 32, 32)), voxel_size_nm=(8.0, 8.0, 8.0))
    return folder


def test_a_prediction_is_decoded_with_nothing_but_its_file(files):
    predict(files / "run", files / "image.h5", files / "p.h5", dtype="uint8")
    predict(files / "run", files / "image.h5", files / "exact.h5", dtype="float32")
    task = get_task("mito-instance")
    values = []
    for name in ("p.h5", "exact.h5"):
        with open_volume(files / name) as volume:
            assert volume.stored().task == task
            # One channel is no probability.
            assert volume.content is None
            values.append(read_values(volume.read(volume.whole), task=task, location=name))
    np.testing.assert_allclose(values[0], values[1], atol=1 / 255)
    assert values[1][2].min() < 0
    overrides = {"threshold": 0.2, "seed_threshold": 0.3, "boundary_threshold": 0.9, "min_seed": 1, "min_size": 1}
    report = decode(files / "p.h5", files / "out.h5", overrides=overrides)
    assert (report.task, report.method, report.shape) == ("mito-instance", "watershed", (16, 32, 32))


def test_objects_are_not_made_block_by_block(files):
    with pytest.raises(
        OutputError, match=r"makes objects \(by watershed\), which need the whole prediction: predict pro"
    ):
        predict(files / "run", files / "image.h5", files / "labels.h5", output="label")
    assert not (files / "labels.h5").exists()


def test_labels_carry_no_task(files, tmp_path):
    make_run(tmp_path / "mito")
    predict(tmp_path / "mito", files / "image.h5", tmp_path / "label.h5", output="label")
    with open_volume(tmp_path / "label.h5") as volume:
        assert (volume.stored().task, volume.content) == (None, "label")
