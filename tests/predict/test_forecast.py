"""What a prediction takes is said before, and is what it takes."""

from __future__ import annotations

import pytest
from support.prediction import grey, make_run, write

from connectomics_zoo.blocks.where import Shard, Where
from connectomics_zoo.errors import SpecError
from connectomics_zoo.predict import predict
from connectomics_zoo.predict.forecast import plan_prediction
from connectomics_zoo.predict.request import Request

SHAPE = (24, 60, 270)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "image.h5", grey(SHAPE))


def request(run, image, **changes) -> Request:
    usual = {
        "window": None,
        "overlap": None,
        "views": None,
        "merge": None,
        "intensity_range": None,
        "device": "cpu",
        "engine": "torch",
        "precision": "auto",
        "batch_size": 1,
        "output": "probability",
        "dtype": "uint8",
        "region": None,
        "mask": None,
        "frozen": False,
    }
    return Request(**{"run": str(run), "volume": str(image), "out": "planned.zarr", **usual, **changes})


def test_blocks_and_windows_are_those_of_the_prediction(run, image, tmp_path):
    planned = plan_prediction(request(run, image), where=Where(shard=Shard(0, 3)), voxels_per_second=1e6)
    for number in range(3):
        report = predict(run, image, tmp_path / "out.zarr", device="cpu", shard=f"{number}/3")
    assert report.complete
    assert planned.blocks == report.blocks >= 3
    assert planned.windows == report.windows
    assert planned.shape == report.shape
    assert planned.files == sum(path.is_file() for path in (tmp_path / "out.zarr" / "0" / "c").rglob("*"))


def test_bytes_are_those_of_the_volume_and_its_borders(run, image):
    alone = plan_prediction(request(run, image, dtype="float32"), where=Where(), voxels_per_second=1e6)
    shared = plan_prediction(request(run, image), where=Where(workers=4), voxels_per_second=1e6)
    voxels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert (alone.blocks, alone.border_percent, alone.read_bytes) == (1, 0, voxels)
    assert alone.written_bytes == 4 * voxels
    assert shared.written_bytes == voxels
    assert shared.border_percent > 0
    assert shared.read_bytes > voxels


def test_the_time_follows_from_the_given_speed_and_who_shares(run, image):
    voxels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    alone = plan_prediction(request(run, image), where=Where(), voxels_per_second=1000)
    assert alone.seconds == pytest.approx(voxels / 1000)
    assert not alone.is_measured
    shared = plan_prediction(request(run, image), where=Where(workers=4), workers=4, voxels_per_second=1000)
    rounds = -(-shared.blocks // 4)
    assert shared.seconds == pytest.approx(rounds * shared.block_seconds, rel=1e-3)
    assert shared.block_seconds * shared.blocks == pytest.approx(
        (1 + shared.border_percent / 100) * voxels / 1000, rel=1e-2
    )


def test_without_a_speed_windows_are_timed(run, image):
    planned = plan_prediction(request(run, image, batch_size=2), where=Where())
    assert planned.is_measured
    assert planned.seconds == pytest.approx(SHAPE[0] * SHAPE[1] * SHAPE[2] / planned.voxels_per_second, rel=1e-2)
    assert planned.gpu_memory_bytes is None
    assert planned.memory_bytes > 50e6  # Python and torch alone


def test_a_speed_of_nothing_is_refused(run, image):
    with pytest.raises(SpecError, match="0 voxels per second are not possible"):
        plan_prediction(request(run, image), where=Where(), voxels_per_second=0)
