"""The lock of a run folder: one process at a time, whatever became of the others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from support.lock_holder import GONE, LockHolder, write_lock
from support.mounts import mount
from support.tiny_training import TINY, request, write_volume

from connectomics_zoo.errors import OutputError
from connectomics_zoo.runs import lock
from connectomics_zoo.runs.folder import LOCK_FILE, get_run
from connectomics_zoo.runs.lock import TAKEOVER, lock_folder
from connectomics_zoo.train import train
from connectomics_zoo.weights.storage import read_weights


def holder_in(folder):
    return json.loads((folder / LOCK_FILE).read_text())["process"]["pid"]


def test_a_folder_in_use_is_refused_with_the_process_that_holds_it(tmp_path):
    with LockHolder() as other:
        other.send(tmp_path)
        assert other.answer() == "holds"
        who = f"the process {other.process.pid} on {socket.gethostname()}"
        held = rf"{tmp_path}: is in use by {who} since 20\d\d-\S+ \S+"
        with pytest.raises(OutputError, match=held + ", wait until that ends or choose another folder with --output"):
            lock_folder(tmp_path).__enter__()
        assert holder_in(tmp_path) == other.process.pid
        other.send("go on")
        assert other.answer() == "released"
    with lock_folder(tmp_path):
        assert holder_in(tmp_path) == os.getpid()


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(OutputError, match=f"is in use by the process {os.getpid()} "):
            lock_folder(tmp_path).__enter__()
        assert holder_in(tmp_path) == os.getpid()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_lock_is_released_on_every_way_out(tmp_path, error):
    with ExitStack() as expected:
        if error is not None:
            expected.enter_context(pytest.raises(error))
        with lock_folder(tmp_path):
            if error is not None:
                raise error
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_else_has_meanwhile_is_not_released(tmp_path):
    with lock_folder(tmp_path):
        (tmp_path / LOCK_FILE).unlink()
        write_lock(tmp_path, host="elsewhere")
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("is_reaped", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, is_reaped):
    with LockHolder() as other:
        other.send(tmp_path)
        assert other.answer() == "holds"
        other.process.send_signal(signal.SIGKILL)
        if is_reaped:
            other.process.wait()
        else:  # it is over, and its parent has not asked yet
            os.waitid(os.P_PID, other.process.pid, os.WEXITED | os.WNOWAIT)
        with lock_folder(tmp_path):
            assert holder_in(tmp_path) == os.getpid()
            assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize("changes", [GONE, {"boot": "another"}, {"pid": 2**31 - 1}])
def test_the_lock_of_a_process_that_is_gone_is_taken_over_though_its_number_is_used_again(
    tmp_path, monkeypatch, changes
):
    mount(monkeypatch, tmp_path, "ext4")
    folder = tmp_path / "run"
    folder.mkdir()
    write_lock(folder, **changes)
    with lock_folder(folder):
        assert holder_in(folder) == os.getpid()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"boot": "another"}])
def test_a_lock_of_another_host_or_container_is_refused_with_the_file_to_delete(tmp_path, monkeypatch, changes):
    mount(monkeypatch, tmp_path, "nfs4")
    folder = tmp_path / "run"
    folder.mkdir()
    write_lock(folder, **GONE, **changes)
    host = changes.get("host", socket.gethostname())
    sentence = (
        f"{folder}: is in use by the process {os.getpid()} on {host} since 2026-01-02 03:04:05+00:00, which cannot "
        "be checked from here: wait until that ends, choose another folder with --output, or delete "
        f"{folder / LOCK_FILE} if it is gone."
    )
    before = (folder / LOCK_FILE).read_bytes()
    with pytest.raises(OutputError, match=re.escape(sentence)):
        lock_folder(folder).__enter__()
    assert (folder / LOCK_FILE).read_bytes() == before


def start_job(monkeypatch, **variables):
    """Make this process one of a job of SLURM that has these variables."""
    for name in SLURM_VARIABLES:
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


SLURM_VARIABLES = ("JOB_ID", "RESTART_COUNT", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "CLUSTER_NAME")
JOB = {"CLUSTER_NAME": "big", "JOB_ID": "78"}
TASK = {**JOB, "ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"boot": "another"}])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (JOB, {**JOB, "RESTART_COUNT": "1"}),
        ({**JOB, "RESTART_COUNT": "1"}, {**JOB, "RESTART_COUNT": "10"}),
        (TASK, {**TASK, "RESTART_COUNT": "1"}),
        (TASK, {**TASK, "RESTART_COUNT": "1", "JOB_ID": "90"}),
    ],
)
def test_a_job_that_slurm_has_requeued_elsewhere_takes_its_lock_over(tmp_path, monkeypatch, elsewhere, before, now):
    mount(monkeypatch, tmp_path, "nfs4")
    folder = tmp_path / "run"
    folder.mkdir()
    start_job(monkeypatch, **before)
    write_lock(folder, **elsewhere)
    start_job(monkeypatch, **now)
    with lock_folder(folder):
        assert holder_in(folder) == os.getpid()
        assert "elsewhere" not in (folder / LOCK_FILE).read_text()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {**JOB, "RESTART_COUNT": "1"}),
        (JOB, {}),
        (JOB, JOB),
        ({**JOB, "RESTART_COUNT": "1"}, {**JOB, "RESTART_COUNT": "1"}),
        ({**JOB, "RESTART_COUNT": "2"}, {**JOB, "RESTART_COUNT": "1"}),
        (JOB, {**JOB, "JOB_ID": "79", "RESTART_COUNT": "1"}),
        (JOB, {**JOB, "CLUSTER_NAME": "small", "RESTART_COUNT": "1"}),
        (TASK, {**TASK, "ARRAY_TASK_ID": "4", "RESTART_COUNT": "1"}),
        (JOB, {**JOB, "RESTART_COUNT": "many"}),
    ],
)
def test_the_lock_of_any_other_job_elsewhere_is_refused(tmp_path, monkeypatch, before, now):
    start_job(monkeypatch, **before)
    write_lock(tmp_path, host="elsewhere")
    start_job(monkeypatch, **now)
    number = {"78": "78", "77": "77_3", None: None}[before.get("ARRAY_JOB_ID", before.get("JOB_ID"))]
    look = "" if number is None else f" (squeue --job {number} shows it as long as it runs)"
    with pytest.raises(OutputError, match=re.escape(f"which cannot be checked from here{look}: wait until that ends")):
        lock_folder(tmp_path).__enter__()


def test_a_process_of_an_earlier_start_of_the_job_that_still_runs_here_keeps_its_lock(tmp_path, monkeypatch):
    start_job(monkeypatch, **JOB)
    with lock_folder(tmp_path):
        start_job(monkeypatch, **JOB, RESTART_COUNT="1")
        with pytest.raises(OutputError, match=r"is in use by the process .*, wait until that ends or choose"):
            lock_folder(tmp_path).__enter__()


def test_a_process_of_another_user_is_checked_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    write_lock(tmp_path)
    with pytest.raises(OutputError, match="is in use by the process"):
        lock_folder(tmp_path).__enter__()
    write_lock(tmp_path, **GONE)
    lock_folder(tmp_path).__enter__()


DAMAGED = {
    "empty": b"",
    "half": b'{"process": {"host":',
    "other": b"[]",
    "no text": b"\xff\xfe",
    "no process": b'{"process": {"pid": 1}, "since": "", "token": ""}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_lock_is_one_sentence(tmp_path, content):
    (tmp_path / LOCK_FILE).write_bytes(content)
    sentence = f"{tmp_path / LOCK_FILE}: is no lock of this program, or damaged: delete it if nothing is at work in "
    with pytest.raises(OutputError, match=re.escape(f"{sentence}{tmp_path}.")):
        lock_folder(tmp_path).__enter__()
    assert (tmp_path / LOCK_FILE).read_bytes() == content


@pytest.mark.parametrize("make", ["mkdir", "pipe", "link"])
def test_what_is_no_file_in_the_place_of_a_lock_is_the_same_sentence(tmp_path, make):
    path = tmp_path / LOCK_FILE
    {"mkdir": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere")}[make]()
    with pytest.raises(OutputError, match="is no lock of this program"):
        lock_folder(tmp_path).__enter__()


def test_a_process_that_is_killed_while_it_takes_a_lock_leaves_none_that_is_damaged(tmp_path):
    code = (
        "import os, pathlib, signal, sys\n"
        "from connectomics_zoo.runs.lock import lock_folder\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.write_text = die\n"
        "lock_folder(pathlib.Path(sys.argv[1])).__enter__()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    with lock_folder(tmp_path):
        assert holder_in(tmp_path) == os.getpid()


def test_a_lock_has_its_content_from_the_first_moment(tmp_path, monkeypatch):
    link, found = os.link, []

    def look(draft, path):
        found.append((path.exists(), json.loads(draft.read_text())["process"]["pid"]))
        link(draft, path)

    monkeypatch.setattr(os, "link", look)
    with lock_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    assert found == [(False, os.getpid())]


def test_without_links_a_lock_is_held_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with lock_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
        with pytest.raises(OutputError, match=f"is in use by the process {os.getpid()} "):
            lock_folder(tmp_path).__enter__()
        assert holder_in(tmp_path) == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_leaves_the_block_does_not_release_the_lock(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from connectomics_zoo.runs.lock import lock_folder\n"
        "folder, child = pathlib.Path(sys.argv[1]), 1\n"
        "with lock_folder(folder):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "        print(len(list(folder.iterdir())))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(
        OutputError, match=r"gone: cannot be written \(No such file or directory\), make it writable or"
    ):
        lock_folder(tmp_path / "gone").__enter__()


# At the same moment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [[], [LOCK_FILE], [LOCK_FILE, LOCK_FILE + TAKEOVER]])
def test_of_several_processes_that_start_together_exactly_one_wins(tmp_path, left):
    with ExitStack() as stack:
        others = [stack.enter_context(LockHolder()) for _ in range(3)]
        for number in range(40):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            for name in left:
                write_lock(folder, name=name, **GONE)
            for other in others:
                other.send(folder)
            answers = [other.answer() for other in others]
            assert answers.count("holds") == 1, answers
            # Those who take over may name one that is about to give up, too.
            assert sum("is in use by the process" in answer for answer in answers) == 2, answers
            for other in others:
                other.send("go on")
            assert sorted(other.answer() for other in others) == ["gave up", "gave up", "released"]
            assert list(folder.iterdir()) == []


def test_a_lock_that_another_process_has_just_taken_over_is_not_taken_from_it(tmp_path, monkeypatch):
    write_lock(tmp_path, **GONE)
    find_state = lock.find_state
    with LockHolder() as other:

        def be_slow(process, *, named_in):
            monkeypatch.setattr(lock, "find_state", find_state)
            state = find_state(process, named_in=named_in)
            other.send(tmp_path)
            assert other.answer() == "holds"
            return state

        monkeypatch.setattr(lock, "find_state", be_slow)
        with pytest.raises(OutputError, match=f"is in use by the process {other.process.pid} "):
            lock_folder(tmp_path).__enter__()
        assert holder_in(tmp_path) == other.process.pid
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


# Training ------------------------------------------------------------------------------------------------------------

_COMMAND = "from connectomics_zoo.cli.main import main; main()"


def test_of_two_trainings_into_one_folder_the_loser_exits_with_2_and_the_folder_is_the_winner_s(tmp_path, run_zoo):
    path = write_volume(tmp_path / "v.h5")
    blocks = str(TINY["block_counts"]).replace(" ", "")
    arguments = [
        *("task=mito", f"data.train.image={path}:raw", f"data.train.label={path}:mito"),
        *(f"arch.base_channels={TINY['base_channels']}", f"arch.block_counts={blocks}", "training.augmentation=none"),
        *("training.patch_size=[16,32,32]", "training.batch_size=1", "training.max_steps=4"),
    ]

    def command(seed, output):
        return ["train", "mednext-S", *arguments, f"training.seed={seed}", "--output", str(output), "--device", "cpu"]

    def start(seed):
        words = [sys.executable, "-c", _COMMAND, *command(seed, tmp_path / "run")]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    both = {seed: start(seed) for seed in (1, 2)}
    errors = {seed: process.communicate()[1] for seed, process in both.items()}
    codes = {seed: process.returncode for seed, process in both.items()}
    assert sorted(codes.values()) == [0, 2], errors
    winner, loser = sorted(codes, key=codes.get)
    assert re.fullmatch(
        rf"zoo: {tmp_path}/run: is in use by the process {both[winner].pid} on \S+ since .* with --output\.\n",
        errors[loser],
    )
    assert get_run(tmp_path / "run").training.seed == winner
    assert run_zoo(*command(winner, tmp_path / "alone"))[0] == 0
    kept, expected = (read_weights(tmp_path / name / "model.safetensors") for name in ("run", "alone"))
    assert all(kept[key].equal(expected[key]) for key in expected)
    names, others = ({file.name for file in (tmp_path / folder).iterdir()} for folder in ("run", "alone"))
    assert names == others
    assert len(list((tmp_path / "run" / "logs").glob("events.out.tfevents*"))) == 1


def test_neither_another_training_nor_a_resume_gets_into_a_run_that_goes_on(tmp_path):
    changes, folder, refused = request(write_volume(tmp_path / "v.h5")), tmp_path / "run", []

    def disturb(state):
        if state.done == 3:  # there is a checkpoint
            for action in (
                lambda: train("mednext-S", changes, output=folder, device="cpu"),
                lambda: train(folder, {"training": {"max_steps": 9}}, resume=True, device="cpu"),
            ):
                with pytest.raises(OutputError, match="run: is in use by the process"):
                    action()
                refused.append(action)

    assert train("mednext-S", changes, output=folder, device="cpu", progress=disturb).steps == 4
    assert len(refused) == 2
    assert get_run(folder).training.max_steps == 4
    assert not (folder / LOCK_FILE).exists()
    more = {"training": {"max_steps": 5}}
    assert train(folder, more, resume=True, fast_dev_run=True, device="cpu").steps == 2
    with lock_folder(folder):  # two steps that leave nothing need no lock
        assert train(folder, more, resume=True, fast_dev_run=True, device="cpu").steps == 2
        with pytest.raises(OutputError, match="is in use"):
            train(folder, more, resume=True, device="cpu")
    assert train(folder, more, resume=True, device="cpu").steps == 5
