"""Processes are told from each other by more than their number."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.mounts import mount

from connectomics_zoo.runs import process
from connectomics_zoo.runs.process import Process, find_state, this_process

HERE = Path(__file__).parent


@pytest.fixture(params=["/proc", "ps"])
def source(request, tmp_path, monkeypatch):
    """Both ways to ask the system when a process started."""
    if request.param == "ps":
        if shutil.which("ps") is None:
            pytest.skip("there is no ps on this machine")
        monkeypatch.setattr(process, "_PROC", tmp_path)


@pytest.mark.usefixtures("source")
def test_this_process_runs():
    assert this_process().started
    assert find_state(this_process(), named_in=HERE) == "running"


@pytest.mark.usefixtures("source")
def test_a_process_that_started_at_another_time_has_only_the_same_number():
    assert find_state(this_process().model_copy(update={"started": "before"}), named_in=HERE) == "gone"


@pytest.mark.usefixtures("source")
def test_a_process_that_has_ended_is_gone_before_and_after_its_parent_asks():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = this_process().model_copy(update={"pid": child.pid, "started": process._start(child.pid)})
        assert find_state(known, named_in=HERE) == "running"
        child.kill()
        process.os.waitid(process.os.P_PID, child.pid, process.os.WEXITED | process.os.WNOWAIT)
        assert find_state(known, named_in=HERE) == "gone"
    assert find_state(known, named_in=HERE) == "gone"


@pytest.mark.usefixtures("source")
def test_a_process_whose_start_could_not_be_told_runs_until_its_number_is_free():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = this_process().model_copy(update={"pid": child.pid, "started": ""})
        assert find_state(known, named_in=HERE) == "running"
        child.kill()
        process.os.waitid(process.os.P_PID, child.pid, process.os.WEXITED | process.os.WNOWAIT)
        assert find_state(known, named_in=HERE) == "gone"
    assert find_state(known, named_in=HERE) == "gone"


@pytest.mark.parametrize(("kind", "state"), [("ext4", "gone"), ("nfs4", "unknown"), (None, "unknown")])
def test_another_start_of_the_machine_may_be_another_machine_of_its_name(tmp_path, monkeypatch, kind, state):
    mount(monkeypatch, tmp_path, kind)
    assert find_state(this_process().model_copy(update={"boot": "another"}), named_in=tmp_path) == state


def test_without_proc_and_ps_whatever_has_the_number_counts_as_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_PROC", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_process().started == ""
    assert find_state(this_process(), named_in=HERE) == "running"


@pytest.mark.parametrize("pid", [0, -1, 2**31])
def test_what_is_no_number_of_a_process_is_refused(pid):
    with pytest.raises(ValueError, match="pid"):
        Process.model_validate({**this_process().model_dump(), "pid": pid})
