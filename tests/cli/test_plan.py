"""`zoo plan`: the table, the script of a job array, and the cluster file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.prediction import grey, make_run, write

from connectomics_zoo.blocks import slurm_array
from connectomics_zoo.blocks.where import read_cluster
from connectomics_zoo.cli.main import cli
from connectomics_zoo.errors import SpecError

LAB = """\
schema_version: 1
kind: slurm
jobs: 8
cores: 4
memory: 16GB
walltime: "02:00:00"
gpus: 1
partition: gpu
account: em
qos: long
environment: ["module load cuda"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    make_run(folder / "tiny", data={"voxel_size_nm": (30.0, 8.0, 8.0)})
    write(folder / "image.h5", grey((16, 130, 260)))
    (folder / "lab.yaml").write_text(LAB)
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(slurm_array, "max_array_size", lambda: 100)


def plan(*words: str) -> str:
    result = CliRunner().invoke(cli, ["plan", "tiny", "image.h5", *words, "--voxels-per-second", "1e5"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def directives_of(script: Path) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]


def test_the_table_says_what_there_is_to_know():
    text = plan("--workers", "4", "--device", "cpu")
    assert "16 x 130 x 260 uint8" in text
    assert "% more than without blocks" in text
    assert "the network not included" in text
    assert "0.1 Mvoxel/s, as given" in text
    assert "4 worker(s)" in text


def test_json_has_the_same():
    report = json.loads(plan("--gpus", "2", "--json"))
    assert report["workers"] == 2
    assert report["blocks"] >= 1
    assert report["windows"] >= report["blocks"]
    assert not Path("planned.zarr.job").exists()


def test_the_script_runs_the_same_prediction_in_shares_and_asks_for_what_the_plan_says():
    plan(
        *("out.zarr", "--shard-count", "6", "--workers", "3", "--window", "16,32,32", "--views", "flips"),
        *("--batch-size", "2", "--intensity-range", "0,255", "--script", "a.sbatch"),
    )
    script = Path("a.sbatch")
    lines = directives_of(script)
    assert lines[:5] == ["--job-name=zoo", "--array=0-5%3", "--requeue", "--open-mode=append", "--signal=B:USR1@60"]
    assert "--time=00:10:00" in lines
    assert not [line for line in lines if line.startswith(("--gres", "--partition"))]
    command = script.read_text().split("trap again USR1\n\n")[1].splitlines()[0]
    assert command == (
        "zoo predict tiny image.h5 out.zarr --window 16,32,32 --views flips --intensity-range 0,255 --batch-size 2 "
        '--shard "$SLURM_ARRAY_TASK_ID/6" &'
    )


def test_with_a_cluster_file_the_script_asks_for_what_that_says():
    plan("out.zarr", "--script", "b.sbatch", "--cluster", "lab.yaml")
    lines = directives_of(Path("b.sbatch"))
    assert lines[1] == "--array=0-7"
    assert lines[5:] == [
        "--time=02:00:00",
        "--cpus-per-task=4",
        "--mem=15259M",
        "--output=zoo-%A_%a.log",
        "--partition=gpu",
        "--account=em",
        "--qos=long",
        "--gres=gpu:1",
    ]
    assert "\nmodule load cuda\n" in Path("b.sbatch").read_text()


def test_a_cluster_file_is_written_that_can_be_read():
    plan("--gpus", "4", "--write-cluster", "made.yaml")
    spec = read_cluster(Path("made.yaml"))
    assert (spec.jobs, spec.gpus, spec.walltime) == (4, 1, "00:10:00")


def test_more_jobs_than_an_array_may_have_are_refused():
    with pytest.raises(
        SpecError, match="101 jobs are too many for an array, this SLURM allows 100: give --shard-count 100"
    ):
        plan("out.zarr", "--shard-count", "101", "--script", "c.sbatch")


def test_a_script_without_an_output_is_refused():
    with pytest.raises(SpecError, match="give OUT too"):
        plan("--script", "c.sbatch")


def test_workers_and_gpus_are_not_given_both():
    with pytest.raises(SpecError, match="say twice who shares the blocks"):
        plan("--workers", "2", "--gpus", "2")


def test_a_job_too_short_for_a_block_is_warned_of():
    Path("short.yaml").write_text(LAB.replace("02:00:00", "00:01:00").replace("jobs: 8", "jobs: 1"))
    words = ["o.zarr", "--cluster", "short.yaml", "--script", "d.sbatch", "--voxels-per-second", "1e4"]
    result = CliRunner().invoke(cli, ["plan", "tiny", "image.h5", *words])
    assert result.exit_code == 0
    assert "a block takes about 0:54 and a job 00:01:00, in which it may not end" in result.stderr


@pytest.mark.parametrize("answer", ["MaxArraySize            = 4001\n", None])
def test_the_size_of_an_array_is_what_slurm_says_or_usual(answer, tmp_path, monkeypatch):
    monkeypatch.undo()
    if answer is not None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if answer else str(tmp_path))
    assert slurm_array.max_array_size() == (4001 if answer else 1000)


def programs(folder: Path, **texts: str) -> dict[str, str]:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(("sent", "comes_back"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_job_comes_back_after_its_limit_and_not_after_it_was_cancelled(tmp_path, sent, comes_back):
    plan("out.zarr", "--script", "e.sbatch", "--shard-count", "4")
    said = tmp_path / "said"
    environment = programs(
        tmp_path / "bin",
        zoo=f"trap 'echo ended >> {said}; exit 130' TERM; echo \"$@\" >> {said}; while true; do sleep 0.05; done",
        scontrol=f'echo "$@" >> {said}',
    )
    environment |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "17"}
    job = subprocess.Popen(["bash", "e.sbatch"], env=environment, start_new_session=True)
    while not said.exists():
        time.sleep(0.05)
    if comes_back:
        job.send_signal(sent)  # SLURM tells the script alone
        assert job.wait(10) == 0
    else:
        os.killpg(job.pid, sent)  # scancel ends all of them
        assert job.wait(10) != 0
    end = time.monotonic() + 10
    while "ended" not in said.read_text() and time.monotonic() < end:  # by a process of its own
        time.sleep(0.05)
    lines = said.read_text().splitlines()
    assert lines[0] == "predict tiny image.h5 out.zarr --shard 2/4"
    assert "ended" in lines
    assert ("requeue 17_2" in lines) == comes_back


def test_gpus_that_a_job_does_not_have_are_refused(tmp_path):
    Path("cpu.yaml").write_text(LAB.replace("gpus: 1", "gpus: 0"))
    result = CliRunner().invoke(cli, ["plan", "tiny", "image.h5", "out.zarr", "--gpus", "2", "--cluster", "cpu.yaml"])
    assert isinstance(result.exception, SpecError)
    assert "--gpus 2 are planned, and a job of cpu.yaml has none" in str(result.exception)
