"""Predictions in blocks: the result of one, whatever stops them and whoever does them; another job is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from support.prediction import SMALL, StopError, grey, make_run, read, stop_batches, write

from connectomics_zoo.blocks import turns
from connectomics_zoo.blocks.job import Job
from connectomics_zoo.errors import OutputError, SpecError, VolumeError, ZooError
from connectomics_zoo.pictures import slices
from connectomics_zoo.predict import plan, predict
from connectomics_zoo.predict import slide as sliding
from connectomics_zoo.predict.work import PredictBlock, forget
from connectomics_zoo.specs.lookup import get_task
from connectomics_zoo.volumes import open_volume

SHAPE = (24, 64, 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("images") / "image.h5", grey(SHAPE), voxel_size_nm=(30.0, 8.0, 8.0))


@pytest.fixture(scope="module")
def whole(run, image, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole.h5"
    assert predict(run, image, out, device="cpu").blocks == 1
    return read(out)


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)


@pytest.fixture
def stop_after(monkeypatch):
    """Stop after so many windows."""
    return lambda windows, error=StopError: stop_batches(monkeypatch, windows, error)


@pytest.mark.parametrize("name", ["out.zarr", "out.zarr:some/group", "out.h5:volumes/mito", "out.tif"])
def test_blocks_give_what_one_block_gives(run, image, whole, tmp_path, small_blocks, name):
    report = predict(run, image, tmp_path / name, device="cpu")
    assert report.blocks == 8
    assert (report.resumed, report.complete) == (0, True)
    np.testing.assert_array_equal(read(tmp_path / name), whole)
    assert [path.name for path in tmp_path.iterdir()] == [name.partition(":")[0]]


def test_blocks_of_a_zarr_output_are_whole_shards(run, image, tmp_path, small_blocks):
    predict(run, image, tmp_path / "out.zarr", device="cpu")
    array = zarr.open_array(str(tmp_path / "out.zarr" / "0"), mode="r")
    assert array.chunks == (8, 16, 16)
    assert array.shards == (16, 32, 32)
    assert dict(array.attrs)["content"] == "probability"
    assert "zoo_unfinished" not in dict(array.attrs)
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    levels = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert levels[0]["coordinateTransformations"] == [{"type": "scale", "scale": [30.0, 8.0, 8.0]}]


@pytest.mark.parametrize("name", ["out.zarr", "out.h5"])
def test_what_was_stopped_goes_on_and_does_no_block_twice(
    run, image, whole, tmp_path, small_blocks, stop_after, monkeypatch, name
):
    out = tmp_path / name
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    assert not out.exists()
    done = {path.name for path in (tmp_path / f"{name}.job" / "done" / "predict").iterdir()}
    assert done
    monkeypatch.undo()
    for key, value in SMALL.items():
        monkeypatch.setattr(plan, key, value)
    calls = []
    report = predict(run, image, out, device="cpu", progress=calls.append)
    assert report.resumed == len(done)
    assert 0 < calls[0].done < calls[0].total
    np.testing.assert_array_equal(read(out), whole)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_block_that_is_half_written_is_done_again(run, image, whole, tmp_path, small_blocks, stop_after, monkeypatch):
    out = tmp_path / "out.zarr"
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    stored = tmp_path / "out.zarr.job" / "volume.zarr" / "0" / "c"
    for path in stored.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for path in (tmp_path / "out.zarr.job" / "done" / "predict").iterdir():
        path.unlink()
    monkeypatch.undo()
    assert predict(run, image, out, device="cpu").resumed == 0
    np.testing.assert_array_equal(read(out), whole)


def test_an_interrupted_prediction_says_how_to_go_on(run, image, tmp_path, small_blocks, stop_after):
    stop_after(30, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match=r"stopped, \d of \d+ blocks are done: repeat the command to go on\."):
        predict(run, image, tmp_path / "out.zarr", device="cpu")


def test_nothing_is_left_of_what_is_stopped_in_its_first_block(run, image, tmp_path, small_blocks, stop_after):
    stop_after(2)
    with pytest.raises(StopError):
        predict(run, image, tmp_path / "out.zarr", device="cpu")
    assert list(tmp_path.iterdir()) == []


ANOTHER = {
    r"overlap 0\.5 there, 0\.25 here": {"overlap": 0.25},
    r"window \[16, 32, 32\] there, \[16, 32, 64\] here": {"window": (16, 32, 64)},
    "views one there, flips here": {"views": "flips"},
    "dtype uint8 there, float32 here": {"dtype": "float32"},
    r"intensity range null there, \[0, 200\] here": {"intensity_range": (0, 200)},
    "precision float32 there, bfloat16 here": {"precision": "bfloat16"},
    "region z=0:24,y=0:64,x=0:64 there, z=0:20,y=0:64,x=0:64 here": {"region": "z=0:20"},
}


def test_the_unfinished_output_of_another_job_is_not_gone_on_with(
    run, image, whole, tmp_path, small_blocks, stop_after, monkeypatch
):
    out = tmp_path / "out.zarr"
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    monkeypatch.undo()
    for what, changes in ANOTHER.items():
        with pytest.raises(
            OutputError, match=rf"out\.zarr: is the unfinished output of another job \({what}\): repeat"
        ):
            predict(run, image, out, device="cpu", **changes)
    report = predict(run, image, out, device="cpu")
    assert report.resumed > 0
    np.testing.assert_array_equal(read(out), whole)


def test_other_weights_are_another_job_and_overwrite_begins_anew(
    run, image, tmp_path, small_blocks, stop_after, monkeypatch
):
    out = tmp_path / "out.zarr"
    other = make_run(tmp_path / "other", arch={"base_channels": 4}, data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    monkeypatch.undo()
    with pytest.raises(OutputError, match=r"of another job .*weights [0-9a-f]{57}… there"):
        predict(other, image, out, device="cpu")
    report = predict(other, image, out, device="cpu", overwrite=True)
    assert report.resumed == 0
    predict(other, image, tmp_path / "fresh.zarr", device="cpu")
    np.testing.assert_array_equal(read(out), read(tmp_path / "fresh.zarr"))


def test_overwrite_repeated_goes_on_and_the_old_output_stays_until_the_new_one_is_whole(
    run, image, whole, tmp_path, small_blocks, stop_after, monkeypatch
):
    out = tmp_path / "out.h5"
    write(out, np.full((2, 3, 4), 7, np.uint8))
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu", overwrite=True)
    assert (read(out) == 7).all()
    monkeypatch.undo()
    assert predict(run, image, out, device="cpu", overwrite=True).resumed > 0
    np.testing.assert_array_equal(read(out), whole)


def test_an_unfinished_output_is_no_volume(run, image, tmp_path, small_blocks, stop_after):
    out = tmp_path / "out.zarr"
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    with pytest.raises(VolumeError, match=r"out\.zarr: is not finished: repeat the command that makes it"):
        open_volume(out)
    with pytest.raises(VolumeError, match="is not finished, blocks of it are still to come"):
        open_volume(tmp_path / "out.zarr.job" / "volume.zarr")


def test_shares_of_a_job_make_the_whole_in_any_order(run, image, whole, tmp_path, small_blocks):
    out = tmp_path / "out.zarr"
    reports = [predict(run, image, out, device="cpu", shard=f"{number}/3") for number in (2, 0, 1)]
    assert [report.complete for report in reports] == [False, False, True]
    # Each tells its own speed, not that of all.
    done = sum(report.voxels_per_second * report.seconds for report in reports)
    assert done == pytest.approx(np.prod(SHAPE), rel=0.01)
    np.testing.assert_array_equal(read(out), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    # A share that is started again once all is done has nothing to do.
    late = predict(run, image, out, device="cpu", shard="1/3")
    assert (late.complete, late.resumed) == (True, late.blocks)
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, out, device="cpu", shard="1/3", overlap=0.25)


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/3", "1/0", "a/b"])
def test_a_share_that_is_none_is_refused(run, image, tmp_path, shard):
    with pytest.raises(SpecError, match=r"the shard .* is not understood, write i/n with 0 <= i < n"):
        predict(run, image, tmp_path / "out.zarr", shard=shard)


def test_where_it_runs_is_said_once(run, image, tmp_path):
    with pytest.raises(SpecError, match="workers and shard say twice where the job runs, give one of them"):
        predict(run, image, tmp_path / "out.zarr", workers=2, shard="0/2")


def test_one_process_at_a_time_works_on_a_job_and_shares_of_other_sizes_wait(run, image, tmp_path, small_blocks):
    out = tmp_path / "out.zarr"
    told = []

    def meanwhile(*, first, others):
        def attempt(progress):
            if progress.done == 0 or told:
                return
            for shard in others:
                with pytest.raises(OutputError, match=r"out\.zarr\.job\S*: is in use by the process") as caught:
                    predict(run, image, out, device="cpu", shard=shard)
                told.append(str(caught.value))

        told.clear()
        predict(run, image, out, device="cpu", shard=first, progress=attempt)
        return list(told)

    assert len(meanwhile(first=None, others=[None, "0/2"])) == 2
    out.rename(tmp_path / "done.zarr")
    refused = meanwhile(first="0/2", others=["0/2", None, "1/3"])
    assert len(refused) == 3
    assert all("wait until that ends or choose another name for the output." in sentence for sentence in refused)


def test_a_mask_leaves_out_blocks_and_voxels(run, image, whole, tmp_path, small_blocks, monkeypatch):
    shown = np.zeros(SHAPE, np.uint8)
    shown[2:10, 3:20, 5:18] = 1
    mask = write(tmp_path / "mask.h5", shown)
    computed = []
    predict_block = sliding.predict_block
    monkeypatch.setattr(
        "connectomics_zoo.predict.work.predict_block",
        lambda *args, **options: computed.append(1) or predict_block(*args, **options),
    )
    report = predict(run, image, tmp_path / "out.zarr", device="cpu", mask=mask)
    np.testing.assert_array_equal(read(tmp_path / "out.zarr"), whole * shown)
    assert 0 < len(computed) < report.blocks / 2


def test_a_mask_of_another_shape_is_refused(run, image, tmp_path):
    mask = write(tmp_path / "mask.h5", np.ones((24, 64, 65), np.uint8))
    with pytest.raises(VolumeError, match=r"image and mask have the shapes \(24, 64, 64\) and \(24, 64, 65\)"):
        predict(run, image, tmp_path / "out.zarr", mask=mask)


SCRIPT = """
import sys
from connectomics_zoo.predict import plan
for name, value in {small}.items():
    setattr(plan, name, value)
from connectomics_zoo.cli.main import main
main()
"""


def started(run, image, out, *options, python=(sys.executable,)):
    """Start `zoo predict` with small blocks."""
    code = SCRIPT.format(small=SMALL)
    arguments = ["predict", str(run), str(image), str(out), "--device", "cpu", *options]
    return subprocess.Popen(
        [*python, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(run, image, out, *options, python):
    process = started(run, image, out, *options, python=python)
    stdout, stderr = process.communicate(timeout=240)
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


def wait_for_blocks(job, count):
    end = time.monotonic() + 240
    while len(list(job.glob("done/predict/*[0-9]"))) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kills_lose_the_block_in_work_alone(run, image, whole, tmp_path, forked_python):
    out, job = tmp_path / "out.zarr", tmp_path / "out.zarr.job"
    for count in (1, 2, 4):
        process = started(run, image, out, python=forked_python)
        wait_for_blocks(job, count)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert json.loads((job / "job.json").read_text())["verb"] == "predict"
    done = command(run, image, out, "--json", python=forked_python)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["resumed"] >= 4
    np.testing.assert_array_equal(read(out), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"out.zarr", "out.zarr.png"}


def test_a_picture_that_nobody_asked_for_replaces_nothing(run, image, tmp_path, small_blocks, run_zoo):
    out, picture = tmp_path / "out.zarr", tmp_path / "out.zarr.png"
    picture.write_bytes(b"mine")
    code, _, said = run_zoo("predict", run, image, out, "--device", "cpu")
    assert code == 0
    assert f"{picture} is there already and stays as it is: give --picture FILE.png" in said
    assert picture.read_bytes() == b"mine"
    code, _, _ = run_zoo("predict", run, image, out, "--device", "cpu", "--overwrite", "--picture", picture)
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, ""), ValueError("aspect")])
def test_a_picture_that_fails_is_a_note_unless_it_was_asked_for(
    run, image, tmp_path, small_blocks, monkeypatch, run_zoo, error
):
    def fail(path, *, image, made):
        raise error

    monkeypatch.setattr(slices, "draw_slices", fail)
    out = tmp_path / "out.zarr"
    code, printed, said = run_zoo("predict", run, image, out, "--device", "cpu")
    assert code == 0
    assert f"three slices of it are not drawn in {out}.png (" in said
    assert "out.zarr: " in printed
    with pytest.raises(ValueError, match="aspect") if type(error) is ValueError else nullcontext():
        code, _, _ = run_zoo(
            "predict", run, image, out, "--device", "cpu", "--overwrite", "--picture", tmp_path / "asked.png"
        )
        assert code != 0


@pytest.mark.parametrize("asked", [(), ("--picture", "asked.png")])
def test_a_late_share_draws_no_picture_again(run, image, tmp_path, small_blocks, monkeypatch, run_zoo, asked):
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(slices, "draw_slices", lambda path, **_: (drawn.append(path), Path(path).touch()))
    said = ""
    for share in ("0/2", "1/2", "1/2", "0/2"):
        code, _, notes = run_zoo("predict", run, image, "out.zarr", "--device", "cpu", "--shard", share, *asked)
        assert code == 0
        said += notes
    assert drawn == ["asked.png" if asked else "out.zarr.png"]
    assert "is there already" not in said


def test_sigterm_ends_with_a_sentence_and_130(run, image, tmp_path):
    out = tmp_path / "out.zarr"
    process = started(run, image, out)
    wait_for_blocks(tmp_path / "out.zarr.job", 1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "blocks are done: repeat the command to go on." in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("name", ["out.zarr", "out.h5"])
def test_a_job_that_was_killed_at_its_very_end_is_cleared_away(run, image, whole, tmp_path, monkeypatch, name):
    out = tmp_path / name

    def killed(job):
        raise StopError

    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.blocks.job.Job.remove", killed)
        with pytest.raises(StopError):
            predict(run, image, out, device="cpu")
    assert (tmp_path / f"{name}.job" / "job.json").exists()
    report = predict(run, image, out, device="cpu")
    assert (report.complete, report.resumed) == (True, 1)
    np.testing.assert_array_equal(read(out), whole)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, out, device="cpu")


@pytest.fixture
def other_image(tmp_path):
    return write(tmp_path / "other.h5", grey(SHAPE, seed=5), voxel_size_nm=(30.0, 8.0, 8.0))


def killed(*args):
    raise StopError


def test_an_output_that_was_replaced_does_not_come_back_where_the_job_was_killed_then(
    run, image, other_image, whole, tmp_path, monkeypatch
):
    out = tmp_path / "out.zarr"
    predict(run, other_image, out, device="cpu")
    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.blocks.job.Job.remove", killed)
        with pytest.raises(StopError):
            predict(run, image, out, device="cpu", overwrite=True)
    predict(run, image, out, device="cpu", overwrite=True)
    np.testing.assert_array_equal(read(out), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.h5", "out.zarr"]


def test_a_job_that_was_killed_while_its_folder_was_removed_is_repeated(
    run, image, whole, tmp_path, small_blocks, monkeypatch
):
    out = tmp_path / "out.zarr"

    def remove_some(folder, **options):
        for index in range(3):
            (folder / "done" / "predict" / str(index)).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as ending:
        ending.setattr("connectomics_zoo.blocks.job.shutil.rmtree", remove_some)
        with pytest.raises(KeyboardInterrupt):
            predict(run, image, out, device="cpu", overwrite=True)
    predict(run, image, out, device="cpu", overwrite=True)
    np.testing.assert_array_equal(read(out), whole)


def test_the_output_that_a_job_is_to_replace_is_not_taken_for_its_own(
    run, image, other_image, whole, tmp_path, small_blocks, monkeypatch
):
    out = tmp_path / "out.zarr"
    predict(run, other_image, out, device="cpu")
    with monkeypatch.context() as stopping:
        stop_batches(stopping, 30)
        with pytest.raises(StopError):
            predict(run, image, out, device="cpu", overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, out, device="cpu")
    assert predict(run, image, out, device="cpu", overwrite=True).resumed > 0
    np.testing.assert_array_equal(read(out), whole)


def test_a_worker_that_outlives_a_job_is_told_what_the_next_one_is(run, image, tmp_path, small_blocks, stop_after):
    out = tmp_path / "out.zarr"
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu")
    job, work = Job(out), PredictBlock(str(out))
    assert work._opened()[0].chosen.overlap == 0.5
    there = job.describe()
    job.begin(there.model_copy(update={"token": "another", "request": {**there.request, "overlap": 0.25}}))
    assert work._opened()[0].chosen.overlap == 0.25
    forget(str(out))


def test_a_share_waits_until_another_has_begun(run, image, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_LOOK", 0.001)
    with pytest.raises(OutputError, match="the share 0 has not begun the job for 0 s: run it too"):
        turns.wait_until_begun(turns.Job(tmp_path / "out.zarr"), lambda job: True, seconds=0.0)


def test_hdf5_outputs_say_what_they_hold(run, image, tmp_path, small_blocks):
    predict(run, image, tmp_path / "out.h5:volumes/mito", device="cpu")
    with h5py.File(tmp_path / "out.h5") as file:
        attributes = dict(file["volumes/mito"].attrs)
    assert attributes["content"] == "probability"
    assert tuple(attributes["resolution"]) == (30.0, 8.0, 8.0)


def test_the_status_of_a_job_is_seen_by_others(run, image, tmp_path, small_blocks, stop_after, monkeypatch, run_zoo):
    out = tmp_path / "out.zarr"
    seen = []

    def look(progress):
        if progress.done > 0 and not seen:
            seen.append(run_zoo("status", str(out), "--json"))

    stop_after(30)
    with pytest.raises(StopError):
        predict(run, image, out, device="cpu", progress=look)
    working = json.loads(seen[0][1])
    assert working["state"] == "working"
    assert f"process {os.getpid()} on" in working["workers"][0]
    code, printed, _ = run_zoo("status", str(out))
    assert code == 0
    assert "stopped" in printed
    assert "repeat the zoo predict command to go on" in printed
    stopped = json.loads(run_zoo("status", str(out), "--json")[1])
    (stage,) = stopped["stages"]
    assert 0 < stage["done"] < stage["blocks"] == 8
    assert stage["voxels"] == np.prod(SHAPE)
    assert stopped["voxels_per_second"] > 0
    assert stopped["seconds_left"] > 0
    monkeypatch.undo()
    predict(run, image, out, device="cpu")
    assert run_zoo("status", str(out))[1] == f"{out}: finished.\n"
    code, _, error = run_zoo("status", str(tmp_path / "other.zarr"))
    assert code == 2
    assert "there is neither this output nor a job that makes it" in error


def test_a_prediction_into_a_bucket_goes_on_as_one_on_disk_does(run, image, whole, bucket, monkeypatch, s3_server):
    out = f"s3://{bucket}/results/out.zarr"
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)
    with monkeypatch.context() as stopping:
        stop_batches(stopping, 30)
        with pytest.raises(StopError):
            predict(run, image, out, device="cpu")
    assert "results/out.zarr.job/job.json" in s3_server.keys(bucket)
    with pytest.raises(VolumeError, match="is not finished, blocks of it are still to come"):
        open_volume(out)
    with pytest.raises(
        OutputError, match=r"is the unfinished output of another job \(overlap 0\.5 there, 0\.25 here\)"
    ):
        predict(run, image, out, device="cpu", overlap=0.25)
    report = predict(run, image, out, device="cpu")
    assert 0 < report.resumed < report.blocks == 8
    np.testing.assert_array_equal(read(out), whole)
    assert all(key.startswith("results/out.zarr/") for key in s3_server.keys(bucket))
    assert sum("/0/c/" in key for key in s3_server.keys(bucket)) == 8
    with pytest.raises(OutputError, match="exists already, choose another name or overwrite it"):
        predict(run, image, out, device="cpu")
    predict(run, image, out, device="cpu", overwrite=True, region="z=0:8")
    np.testing.assert_array_equal(read(out), whole[:8])


def test_shares_of_a_job_into_a_bucket(run, image, whole, bucket, small_blocks):
    out = f"s3://{bucket}/out.zarr"
    reports = [predict(run, image, out, device="cpu", shard=f"{number}/2") for number in (0, 1)]
    assert [report.complete for report in reports] == [False, True]
    np.testing.assert_array_equal(read(out), whole)


@pytest.mark.parametrize(
    ("out", "what"),
    [
        ("s3://{bucket}/out.h5", r"behind a URI, Zarr alone is written, give a name that ends in \.zarr"),
        ("https://127.0.0.1:1/out.zarr", r"cannot be written, only read: give a path, or a URI of s3:// or gs://"),
        ("s3://no-such-bucket/out.zarr", "there is no bucket 'no-such-bucket', check its name"),
    ],
)
def test_what_cannot_be_written_behind_a_uri_is_said_first(run, image, bucket, out, what, s3_server):
    with pytest.raises(ZooError, match=what):
        predict(run, image, out.format(bucket=bucket), device="cpu")
    assert s3_server.keys(bucket) == set()


def test_what_was_made_of_another_volume_is_not_taken_for_a_share(run, image, tmp_path, small_blocks):
    out = tmp_path / "out.zarr"
    other = write(tmp_path / "other.h5", grey(SHAPE, seed=1), voxel_size_nm=(30.0, 8.0, 8.0))
    predict(run, other, out, device="cpu")
    with pytest.raises(OutputError, match="exists already"):
        predict(run, image, out, device="cpu", shard="0/2")
    # One that comes late, with the same words as the others, has nothing to do.
    assert predict(run, other, out, device="cpu", shard="0/2", overwrite=True).complete


def test_a_volume_that_was_written_anew_is_another_one(run, image, tmp_path, small_blocks, stop_after, monkeypatch):
    own = tmp_path / "own.h5"
    write(own, grey(SHAPE), voxel_size_nm=(30.0, 8.0, 8.0))
    stop_after(30)
    with pytest.raises(StopError):
        predict(run, own, tmp_path / "out.zarr", device="cpu")
    monkeypatch.undo()
    own.unlink()
    write(own, grey(SHAPE, seed=1), voxel_size_nm=(30.0, 8.0, 8.0))
    with pytest.raises(OutputError, match=r"another job \(volume's last change 20.* there, 20.* here\)"):
        predict(run, own, tmp_path / "out.zarr", device="cpu")


def test_what_is_behind_a_mask_is_stored_as_0_whatever_it_means(tmp_path, image, monkeypatch):
    task = get_task("mito-instance")
    assert any(channel.activation == "tanh" for channel in task.channels)
    run = make_run(tmp_path / "run", task=task, data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    shown = np.zeros(SHAPE, np.uint8)
    shown[2:10, 3:20, 5:18] = 1
    mask = write(tmp_path / "mask.h5", shown)
    predict(run, image, tmp_path / "one.h5", device="cpu", mask=mask)
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)
    assert predict(run, image, tmp_path / "many.h5", device="cpu", mask=mask).blocks == 8
    one = read(tmp_path / "one.h5")
    np.testing.assert_array_equal(read(tmp_path / "many.h5"), one)
    assert (one[:, shown == 0] == 0).all()
    assert (one[:, shown == 1] != 0).any()


def test_a_job_into_a_bucket_that_was_killed_as_it_began_is_begun_again(
    run, image, whole, bucket, monkeypatch, s3_server
):
    out = f"s3://{bucket}/begun.zarr"

    def killed(job, description):
        raise StopError

    with monkeypatch.context() as beginning:
        beginning.setattr("connectomics_zoo.blocks.job.Job.begin", killed)
        with pytest.raises(StopError):
            predict(run, image, out, device="cpu")
    assert "begun.zarr/0/zarr.json" in s3_server.keys(bucket)
    predict(run, image, out, device="cpu")
    np.testing.assert_array_equal(read(out), whole)


def test_the_status_of_what_is_no_output_is_an_error(image, tmp_path, run_zoo):
    code, _, error = run_zoo("status", str(image))
    assert code == 2
    assert "does not say that zoo has made it, and no job for it is left: check the path" in error


@pytest.mark.parametrize(
    ("picture", "what"),
    [("a.jpg", "pictures are PNG files, give a name that ends in .png"), ("none/a.png", "there is no folder")],
)
def test_a_picture_that_cannot_be_is_refused_before_anything_is_predicted(run, image, tmp_path, run_zoo, picture, what):
    out = tmp_path / "out.zarr"
    code, _, error = run_zoo("predict", str(run), str(image), str(out), "--picture", str(tmp_path / picture))
    assert code == 2
    assert what in error
    assert list(tmp_path.iterdir()) == []
