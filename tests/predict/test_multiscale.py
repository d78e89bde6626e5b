"""Levels of predictions: those of one block, whatever stops them, and where the raw lies."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr
from support.prediction import grey, make_run, write

from connectomics_zoo.blocks import output as outputs
from connectomics_zoo.blocks import turns
from connectomics_zoo.errors import OutputError, VolumeError
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.volumes import create_volume, multiscale, open_volume

SHAPE = (24, 64, 64)
SMALL = {"CHUNK_EDGE": 16, "SHARD_EDGES": (8, 16, 16), "BLOCK_WINDOWS": 27}
VOXEL_SIZE_NM = (20.0, 8.0, 8.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": VOXEL_SIZE_NM})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "image.h5", grey(SHAPE), voxel_size_nm=VOXEL_SIZE_NM)


def levels(location):
    """The voxels of all levels, as zarr-python reads them."""
    group = zarr.open_group(str(location), mode="r")
    paths = [item["path"] for item in group.attrs["ome"]["multiscales"][0]["datasets"]]
    assert sorted(group.array_keys()) == paths
    assert not any("zoo_unfinished" in group[path].attrs for path in paths)
    return [group[path][...] for path in paths]


@pytest.fixture(scope="module")
def whole(run, image, tmp_path_factory):
    """The levels of what was predicted as one block."""
    out = tmp_path_factory.mktemp("whole") / "whole.zarr"
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(multiscale, "SMALLEST", 16)
        assert predict(run, image, out, device="cpu", multiscale=True).blocks == 1
    found = levels(out)
    assert [level.shape for level in found] == [(24, 64, 64), (24, 32, 32), (12, 16, 16)]
    return found


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(multiscale, "SMALLEST", 16)
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)


def equal(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_levels_of_blocks_are_those_of_one_block(run, image, whole, tmp_path, small):
    calls = []
    report = predict(run, image, tmp_path / "out.zarr", device="cpu", multiscale=True, progress=calls.append)
    assert report.blocks == 8
    equal(levels(tmp_path / "out.zarr"), whole)
    assert {call.label for call in calls} == {"", "level 1", "level 2"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    with open_volume(f"{tmp_path}/out.zarr#1") as level:
        assert level.voxel_size_nm == (20.0, 16.0, 16.0)
        assert level.offset_nm == (0.0, 4.0, 4.0)
        stored = level.stored()
        assert (stored.content, stored.placement) == ("probability", None)
        assert stored.scale == ((0.0, 1.0),)


def test_shares_make_the_levels_once_and_a_late_one_finds_them(run, image, whole, tmp_path, small):
    out = tmp_path / "out.zarr"
    options = {"device": "cpu", "multiscale": True}
    assert [predict(run, image, out, shard=f"{n}/2", **options).complete for n in (1, 0)] == [False, True]
    equal(levels(out), whole)
    assert predict(run, image, out, shard="0/2", **options).complete
    predict(run, image, tmp_path / "one.zarr", device="cpu")
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, tmp_path / "one.zarr", shard="0/2", **options)


def stop_in_level(monkeypatch, number, shards, error=KeyboardInterrupt):
    make, left = multiscale.Levels.make, [shards]

    def stopped(self, level, box):
        if level == number:
            left[0] -= 1
            if left[0] < 0:
                raise error
        make(self, level, box)

    monkeypatch.setattr(multiscale.Levels, "make", stopped)


def test_what_is_stopped_in_a_level_predicts_nothing_again(run, image, whole, tmp_path, small, monkeypatch):
    out = tmp_path / "out.zarr"
    with monkeypatch.context() as stopping:
        stop_in_level(stopping, 2, 1)
        with pytest.raises(KeyboardInterrupt, match="blocks are done: repeat the command to go on"):
            predict(run, image, out, device="cpu", multiscale=True)
    assert not out.exists()
    with pytest.raises(VolumeError, match="is not finished"):
        open_volume(tmp_path / "out.zarr.job" / "volume.zarr" / "2")
    made = []
    make = multiscale.Levels.make
    monkeypatch.setattr(
        multiscale.Levels, "make", lambda self, level, box: made.append(level) or make(self, level, box)
    )
    report = predict(run, image, out, device="cpu", multiscale=True)
    assert report.resumed == report.blocks
    assert set(made) == {2}
    equal(levels(out), whole)


def test_levels_may_be_asked_for_or_left_out_when_it_goes_on(run, image, whole, tmp_path, small, monkeypatch):
    for first, second in ((True, False), (False, True)):
        out = tmp_path / f"{second}.zarr"
        with monkeypatch.context() as stopping:
            if first:
                stop_in_level(stopping, 1, 3)
            else:
                stopping.setattr(outputs, "move_into_place", lambda *args, **options: 1 / 0)
            with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
                predict(run, image, out, device="cpu", multiscale=first)
        report = predict(run, image, out, device="cpu", multiscale=second)
        assert report.resumed == report.blocks
        equal(levels(out), whole if second else whole[:1])
        assert (out / "1").exists() is second


KILLED = """
import os, signal, sys
from connectomics_zoo.predict import plan
from connectomics_zoo.volumes import multiscale
multiscale.SMALLEST = 16
for name, value in {small}.items():
    setattr(plan, name, value)
make, left = multiscale.Levels.make, [int(sys.argv.pop())]
def killed(*args):
    make(*args)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
multiscale.Levels.make = killed
from connectomics_zoo.cli.main import main
main()
"""


def command(run, image, out, shards, *, python):
    code = KILLED.format(small=SMALL)
    arguments = ["predict", str(run), str(image), str(out), "--device", "cpu", "--multiscale", str(shards)]
    return subprocess.run(
        [*python, "-c", code, *arguments], env=os.environ, capture_output=True, text=True, check=False
    )


def test_kills_in_levels_lose_one_shard_each(run, image, whole, tmp_path, forked_python):
    out = tmp_path / "out.zarr"
    marks = tmp_path / "out.zarr.job" / "done"
    for count in (2, 3):
        assert command(run, image, out, count, python=forked_python).returncode == -signal.SIGKILL
        assert not out.exists()
    # The shard that was killed at its end has no mark, and was made again.
    assert len(list((marks / "level-1").iterdir())) == 1 + 2
    done = command(run, image, out, 1000, python=forked_python)
    assert done.returncode == 0, done.stderr
    equal(levels(out), whole)


def test_a_part_lies_where_it_is_in_the_raw(run, image, tmp_path, small):
    raw = tmp_path / "raw.zarr"
    with create_volume(
        raw, shape=SHAPE, dtype="uint8", channels=None, voxel_size_nm=VOXEL_SIZE_NM, offset=(3000.0, 0.0, 40.0)
    ) as volume:
        volume.write(volume.whole, grey(SHAPE))
    for source, first in ((raw, (3000.0, 0.0, 40.0)), (image, (0.0, 0.0, 0.0))):
        for wanted in (False, True):
            out = tmp_path / f"{source.stem}-{wanted}.zarr"
            predict(run, source, out, device="cpu", region="z=8:24,y=0:60,x=3:64", multiscale=wanted)
            place = (first[0] + 8 * 20.0, first[1], first[2] + 3 * 8.0)
            with open_volume(out) as finest:
                assert finest.offset_nm == place
                assert finest.placement.box.start == (8, 0, 3)
    with open_volume(f"{tmp_path}/raw-True.zarr#1") as level:
        assert level.offset_nm == (3160.0, 4.0, 40.0 + 24.0 + 4.0)
        # In voxels of the finest level it would lie elsewhere.
        assert level.stored().placement is None


def test_without_a_voxel_size_the_place_is_in_voxels(tmp_path, small):
    run = make_run(tmp_path / "tiny")
    image = write(tmp_path / "image.h5", grey(SHAPE))
    predict(run, image, tmp_path / "out.zarr", device="cpu", region="z=8:24", multiscale=True)
    (entry,) = zarr.open_group(str(tmp_path / "out.zarr")).attrs["ome"]["multiscales"]
    assert all("unit" not in axis for axis in entry["axes"])
    assert entry["datasets"][1]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.0, 2.0, 2.0]},
        {"type": "translation", "translation": [8.5, 0.5, 0.5]},
    ]


def test_labels_have_the_most_frequent_one(run, image, tmp_path, small):
    predict(run, image, tmp_path / "out.zarr", device="cpu", output="label", multiscale=True)
    fine, coarse = levels(tmp_path / "out.zarr")[:2]
    counts = fine.reshape(24, 32, 2, 32, 2).sum((2, 4))
    assert 0 < fine.mean() < 1
    np.testing.assert_array_equal(coarse, counts > 2)


@pytest.mark.parametrize("name", ["out.h5", "out.tif"])
def test_other_formats_have_no_levels(run, image, tmp_path, name):
    with pytest.raises(OutputError, match=rf"{name}: has no levels, which only Zarr has: give a name that ends in"):
        predict(run, image, tmp_path / name, multiscale=True)


def test_workers_make_levels_of_many_shards(run, image, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(outputs, "FEW_SHARDS", 0)
    used = []
    run_blocks = outputs.run_blocks
    monkeypatch.setattr(
        outputs, "run_blocks", lambda *args, **options: used.append(options["where"]) or run_blocks(*args, **options)
    )
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(multiscale, "SMALLEST", 32)
    predict(run, image, tmp_path / "one.zarr", device="cpu", multiscale=True)
    predict(run, image, tmp_path / "out.zarr", device="cpu", workers=1, multiscale=True)
    assert [where.workers for where in used] == [None, 1]
    equal(levels(tmp_path / "out.zarr"), levels(tmp_path / "one.zarr"))


def test_in_a_bucket_levels_go_on_as_on_a_disk(run, image, whole, small, monkeypatch, s3_server, bucket):
    out = f"s3://{bucket}/results/out.zarr"
    with monkeypatch.context() as stopping:
        stop_in_level(stopping, 1, 3)
        with pytest.raises(KeyboardInterrupt):
            predict(run, image, out, device="cpu", multiscale=True)
    for unfinished in (out, f"{out}:1"):
        with pytest.raises(VolumeError, match="is not finished, blocks of it are still to come"):
            open_volume(unfinished)
    report = predict(run, image, out, device="cpu", multiscale=True)
    assert report.resumed == report.blocks
    found = []
    for number in range(3):
        with open_volume(f"{out}#{number}") as level:
            found.append(level.read(level.whole))
    equal(found, whole)
    keys = s3_server.keys(bucket)
    assert all(key.startswith("results/out.zarr/") for key in keys)


FIRST = """
import sys, time
from pathlib import Path
from connectomics_zoo.blocks.job import Job
from connectomics_zoo.blocks.turns import one_at_a_time
job = Job(Path(sys.argv[1]))
with one_at_a_time(job):
    print("inside", flush=True)
    time.sleep(1)
    job.remove()
"""


def test_a_share_that_waits_while_another_makes_levels_goes_on_when_the_folder_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "WAIT_S", 0.2)
    job = turns.Job(tmp_path / "out.zarr")
    with subprocess.Popen([sys.executable, "-c", FIRST, str(job.out)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        with pytest.raises(OutputError, match="is in use by the process"), turns.one_at_a_time(job):
            pass
        with turns.one_at_a_time(job, wait_s=math.inf):
            assert first.wait() == 0
            job.remove()
    assert list(tmp_path.iterdir()) == []
