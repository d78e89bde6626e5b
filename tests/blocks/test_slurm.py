"""Workers from SLURM: the cluster file, the jobs' script, and what is said where SLURM gives none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from support.block_work import Troubled, make_job

from connectomics_zoo.blocks import slurm
from connectomics_zoo.blocks.runner import run_blocks
from connectomics_zoo.blocks.where import read_cluster, where_from
from connectomics_zoo.cli.main import cli
from connectomics_zoo.errors import CheckFailedError, MissingPackageError, SpecError
from connectomics_zoo.schema.cluster import ClusterSpec, walltime_seconds, walltime_text

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue, an extra, is not installed")

LAB = {
    "schema_version": 1,
    "kind": "slurm",
    "jobs": 2,
    "cores": 8,
    "memory": "16GB",
    "walltime": "04:00:00",
    "partition": "gpu",
    "account": "em",
    "qos": "long",
    "constraint": "a100|h100",
    "gpus": 2,
    "extra_directives": ["--exclude=node7"],
    "environment": ["module load cuda"],
    "interface": "lo",
    "log_folder": "logs",
    "start_timeout_s": 60,
}


def lab_file(folder: Path, **changes) -> Path:
    import yaml

    path = folder / "lab.yaml"
    document = {**LAB, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return path


def test_a_cluster_file_says_all_that_jobs_need(tmp_path):
    spec = read_cluster(lab_file(tmp_path))
    assert (spec.jobs, spec.workers, spec.threads, spec.walltime_s) == (2, 2, 4, 4 * 3600)
    assert where_from(cluster=lab_file(tmp_path)).count == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue": "gpu"}, "lab.yaml: queue: unknown key, known are"),
        ({"wall_time": "1"}, "wall_time: unknown key, did you mean 'walltime'"),
        ({"memory": "16"}, "memory: String should match"),
        ({"walltime": "4 hours"}, "walltime: must be HH:MM:SS or D-HH:MM:SS, a minute at least, in quotes"),
        ({"walltime": "00:00:30"}, "a minute at least"),
        ({"partition": "gpu; rm -rf ~"}, "partition: String should match"),
        ({"environment": ["a\nb"]}, "environment[0]: must be one line"),
        ({"gpus": 16}, "8 cores are too few for 16 GPUs"),
        ({"jobs": None}, "jobs: Field required"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_one_sentence(tmp_path, changes, said):
    with pytest.raises(SpecError) as caught:
        where_from(cluster=lab_file(tmp_path, **changes))
    assert said in str(caught.value)


def test_times_of_jobs_are_read_and_written():
    assert walltime_seconds("1-02:03:04") == 93784
    assert walltime_text(walltime_seconds("26:03:00")) == "26:03:00"
    assert walltime_text(61) == "00:02:00"


def test_workers_end_before_the_limit_of_their_job():
    for text in ("00:01:00", "04:00:00", "7-00:00:00"):
        spec = ClusterSpec.model_validate({**LAB, "walltime": text})
        lifetime, stagger = slurm.lifetime_s(spec)
        assert lifetime - stagger > 0
        assert lifetime + stagger < spec.walltime_s


def test_a_dry_run_prints_the_script_of_a_job_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        cli, ["predict", "RUN", "a.h5", "b.zarr", "--cluster", str(lab_file(tmp_path)), "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    directives = [line.removeprefix("#SBATCH ") for line in result.output.splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "-J zoo",
        "-p gpu",
        "-A em",
        "-n 1",
        "--cpus-per-task=8",
        "--mem=15G",
        "-t 04:00:00",
        "--output=logs/zoo-%j.log",
        "--error=logs/zoo-%j.log",
        "--no-requeue",
        "--qos=long",
        "--constraint=a100|h100",
        "--gres=gpu:2",
        "--exclude=node7",
    ]
    assert "module load cuda\nexport OMP_NUM_THREADS=4\n" in result.output
    assert "--nworkers 2 --nanny" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["lab.yaml"]


def test_a_dry_run_without_a_cluster_file_is_refused():
    with pytest.raises(SpecError, match="give --cluster FILE too"):
        CliRunner().invoke(cli, ["predict", "RUN", "a.h5", "b.zarr", "--dry-run"], catch_exceptions=False)


SBATCH = """#!/bin/sh
# Starts the script at once, as SLURM does where there is room.
if [ -n "$REFUSED" ]; then echo "sbatch: error: Batch job submission failed: $REFUSED" >&2; exit 1; fi
mkdir -p logs
if [ -z "$PENDING" ]; then bash "$1" > logs/job.log 2>&1 & echo $! >> jobs; else echo 77 >> jobs; fi
echo "Submitted batch job $(tail -n 1 jobs)"
mv logs/job.log "logs/zoo-$(tail -n 1 jobs).log" 2>/dev/null || true
"""

SQUEUE = """#!/bin/sh
if [ -n "$PENDING" ]; then echo "77 PENDING ($PENDING)"; exit; fi
for job in $(cat jobs); do kill -0 "$job" 2>/dev/null && echo "$job RUNNING (None)"; done
true
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Commands by SLURM's names on the path, and a folder to run in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": "#!/bin/sh\nkill $1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "RENEWAL", 0.5)
    return tmp_path


def work_on(folder: Path, **changes) -> set[int]:
    job = make_job(folder / "out.zarr", 6)
    cluster = lab_file(folder, gpus=0, cores=1, **changes)
    run_blocks(job, "predict", Troubled(folder), grid=job.describe().cut.grid, where=where_from(cluster=cluster))
    return job.done("predict")


def test_jobs_do_the_blocks_and_end(stand_in):
    assert work_on(stand_in) == set(range(6))
    assert len((stand_in / "jobs").read_text().split()) == 2


def test_what_slurm_refuses_is_said(stand_in, monkeypatch):
    monkeypatch.setenv("REFUSED", "Invalid partition name specified")
    with pytest.raises(
        CheckFailedError,
        match=re.escape("SLURM refuses the job (Batch job submission failed: Invalid partition name specified): mend"),
    ):
        work_on(stand_in)


def test_of_jobs_that_never_start_it_is_said_what_squeue_says(stand_in, monkeypatch):
    monkeypatch.setenv("PENDING", "Resources")
    with pytest.raises(CheckFailedError, match=r"within 1 s, squeue says 77 PENDING \(Resources\): ask for less"):
        work_on(stand_in, start_timeout_s=1)


def test_of_jobs_that_end_at_once_it_is_said_what_their_log_says(stand_in):
    with pytest.raises(CheckFailedError, match=r"ended before a worker came, the log says: .*nowhere: not found"):
        work_on(stand_in, environment=["exec nowhere"])


def test_without_slurm_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingPackageError, match=r"there is no sbatch on the path.*--workers N"):
        work_on(tmp_path)


def has_slurm() -> bool:
    if shutil.which("sinfo") is None:
        return False
    answer = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and any(state in answer.stdout for state in ("idle", "mixed"))


def test_a_real_slurm_does_the_blocks(tmp_path, monkeypatch):
    if not has_slurm():
        pytest.skip("there is no SLURM with an idle node here (sinfo)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.chdir(tmp_path)
    bare = dict.fromkeys(("partition", "account", "qos", "constraint", "extra_directives", "environment"))
    assert work_on(tmp_path, **bare, memory="1GB", walltime="00:05:00") == set(range(6))


def test_the_page_about_the_workers_is_for_this_machine_alone(tmp_path, monkeypatch):
    asked = {}

    def refuse(**options):
        asked.update(options)
        raise ValueError("enough.")

    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    monkeypatch.setattr(slurm, "_import_jobqueue", lambda: SimpleNamespace(SLURMCluster=refuse))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckFailedError, match="does not start"), slurm.slurm_workers(ClusterSpec(**LAB)):
        pass
    assert asked["scheduler_options"] == {"dashboard_address": "127.0.0.1:8787"}


def test_the_link_to_that_page_is_one_of_this_machine(monkeypatch):
    monkeypatch.setattr(slurm, "has_dashboard", lambda: True)
    cluster = SimpleNamespace(scheduler_address="tcp://10.0.0.3:1234", dashboard_link="http://10.0.0.3:8790/status")
    assert slurm.SlurmWorkers(cluster, ClusterSpec(**LAB)).dashboard == "http://127.0.0.1:8790/status"
