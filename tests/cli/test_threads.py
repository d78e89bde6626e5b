"""Threads of the command line: what OpenMP is told before torch is loaded, and never against the user's word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from connectomics_zoo.cli._threads import settle_threads
from connectomics_zoo.network import threads
from connectomics_zoo.network.threads import WAITING


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """Put this process into a control group with the quota given."""

    def limit(text, *, name="cpu.max"):
        group = tmp_path / "cgroup" / "job"
        group.mkdir(parents=True)
        (group / name).write_text(text)
        (tmp_path / "membership").write_text("0::/job\n")
        monkeypatch.setattr(threads, "_CONTROL_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "membership")

    return limit


def test_every_openmp_is_told_to_wait_briefly(quota):
    quota("max 100000")
    environment: dict[str, str] = {}
    settle_threads(environment)
    assert environment == WAITING


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "3"}])
def test_what_the_user_has_set_stays(own, quota):
    quota("max 100000")
    environment = dict(own)
    settle_threads(environment)
    assert environment == own


def test_a_quota_limits_the_threads_unless_the_user_did(quota, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    quota("250000 100000")
    environment: dict[str, str] = {}
    settle_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "3"
    environment = {"OMP_NUM_THREADS": "8"}
    settle_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "8"


def test_the_command_line_settles_them_before_a_verb_runs():
    code = (
        "import os, sys; sys.argv = ['zoo', 'schema', 'task']\n"
        "from connectomics_zoo.cli.main import main\n"
        "main()\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stderr.write(os.environ['GOMP_SPINCOUNT'])"
    )
    free = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True)
    assert result.stderr == WAITING["GOMP_SPINCOUNT"]
