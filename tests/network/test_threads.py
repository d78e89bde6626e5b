"""Cores that a process may use: its affinity, and the quota of its control groups, of either version."""

from __future__ import annotations

import os

import pytest

from connectomics_zoo.network import threads
from connectomics_zoo.network.threads import core_quota, usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of eight cores whose control groups are these files."""

    def make(membership: str, files: dict[str, str]):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "membership").write_text(membership)
        monkeypatch.setattr(threads, "_CONTROL_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "membership")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    return make


@pytest.mark.parametrize(
    ("membership", "files", "quota", "usable"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "150000 100000\n"}, 1.5, 2),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4.0, 4),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000"}, 0.5, 1),
        ("4:cpu,cpuacct:/job\n9:memory:/job\n",
         {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}, 3.0, 3),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, None, 8),
        ("0::/\n", {"cpu.max": "12000000 100000"}, 120.0, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, None, 8),
        ("", {}, None, 8),
    ],
)  # fmt: skip
def test_the_smallest_of_affinity_and_quotas_counts(machine, membership, files, quota, usable):
    machine(membership, files)
    assert core_quota() == quota
    assert usable_cores() == usable
