"""Outputs appear whole or not at all, whatever fails or is killed, and nothing of another process is touched."""

from __future__ import annotations

import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from connectomics_zoo.errors import OutputError
from connectomics_zoo.files import local
from connectomics_zoo.files.atomic import PartialOutput, check_place, whole_file, whole_folder, write_text

FULL = "cannot be written (No space left on device), give a writable place."


def names(folder: Path) -> list[str]:
    """What is in `folder`, with * for the random part of a temporary name."""
    return sorted(re.sub(r"(\.(?:partial|old)-\d+)-[0-9a-f]{8}$", r"\1-*", path.name) for path in folder.iterdir())


def content(folder: Path) -> dict[str, str]:
    """The text of every file under `folder`."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "0").mkdir()
    (folder / "0" / "chunk").write_text(text)
    (folder / "meta.json").write_text(text)


def replace_folder(target: Path, text: str) -> None:
    output = PartialOutput(target, overwrite=True)
    with output.writing():
        fill(output.path, text)


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


KILLED = """
import os, signal
from pathlib import Path
from connectomics_zoo.files.atomic import PartialOutput, whole_file, write_text

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(function, call):
    def counted(self, *args):
        counted.calls += 1
        if counted.calls == call:
            die()
        return function(self, *args)
    counted.calls = 0
    return counted

target = Path({target!r})
"""


def run_killed(target: Path, code: str) -> int:
    """Run `code`, which kills its process, and return the number that it had."""
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(target=str(target)) + code])
    assert process.wait() == -signal.SIGKILL
    return process.pid


KILLED_IN_REPLACING = """
Path.rename = die_at(Path.rename, {call})
output = PartialOutput(target, overwrite=True)
with output.writing():
    output.path.mkdir()
    (output.path / "meta.json").write_text("new")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder on a file system of this machine alone."""
    (tmp_path / "mountinfo").write_text("20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr(local, "_MOUNTS", tmp_path / "mountinfo")
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


# Whole or not at all


def test_a_file_appears_when_it_is_complete(tmp_path):
    with whole_file(tmp_path / "a.txt", overwrite=False) as partial:
        partial.write_text("half")
        assert names(tmp_path) == [f".a.txt.partial-{os.getpid()}-*"]
        partial.write_text("whole")
    assert content(tmp_path) == {"a.txt": "whole"}


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with whole_folder(tmp_path / "new" / "run") as partial:
        (partial / "spec.yaml").write_text("1")
        assert names(tmp_path / "new") == [f".run.partial-{os.getpid()}-*"]
    assert content(tmp_path) == {"new/run/spec.yaml": "1"}


def test_a_text_replaces_the_one_before(tmp_path):
    for text in ("first", "zweitens, mit ß"):
        write_text(tmp_path / "a.yaml", text)
        assert (tmp_path / "a.yaml").read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["a.yaml"]


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_what_is_written_is_as_readable_as_any_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        (tmp_path / "a.txt").touch(0o600)
        write_text(tmp_path / "a.txt", "")
        with whole_folder(tmp_path / "run"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750


@pytest.mark.parametrize("error", [OSError(28, ""), ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", [whole_file, whole_folder])
def test_a_failure_while_writing_leaves_nothing(tmp_path, kind, error):
    options = {"overwrite": True} if kind is whole_file else {}

    def fail():
        with kind(tmp_path / "a", **options) as partial:
            place = partial / "part" if kind is whole_folder else partial
            place.write_text("half")
            raise error

    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), NotImplementedError("no such operator")])
def test_a_failure_of_the_block_that_is_not_of_the_file_system_says_what_it_is(tmp_path, error):
    with pytest.raises(type(error), match=str(error)), whole_file(tmp_path / "a", overwrite=True):
        raise error


def test_a_file_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda number: flushed.append((os.pread(number, 9, 0), (tmp_path / "a.txt").read_text()))
    )
    write_text(tmp_path / "a.txt", "new")
    assert flushed == [(b"new", "old")]


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step):
    write_text(tmp_path / "a.txt", "old")

    def fail(*_, **__):
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(OutputError) as caught:
            write_text(tmp_path / "a.txt", "new")
    assert str(caught.value) == f"{tmp_path / 'a.txt'}: {FULL}"
    assert content(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_the_old_folder_is_there_when_replacing_it_fails_at_any_step(tmp_path, monkeypatch, call, error):
    fill(tmp_path / "a.zarr", "old")
    rename, calls = Path.rename, []

    def fail(self, target):
        calls.append(target)
        if len(calls) == call:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        replace_folder(tmp_path / "a.zarr", "new")
    assert names(tmp_path) == ["a.zarr"]
    assert set(content(tmp_path).values()) == {"old"}


def test_a_folder_replaces_the_one_before(tmp_path):
    fill(tmp_path / "a.zarr", "old")
    replace_folder(tmp_path / "a.zarr", "new")
    assert names(tmp_path) == ["a.zarr"]
    assert set(content(tmp_path).values()) == {"new"}


def test_a_folder_replaces_a_link_and_not_what_it_points_to(tmp_path):
    fill(tmp_path / "elsewhere", "old")
    (tmp_path / "a.zarr").symlink_to(tmp_path / "elsewhere")
    replace_folder(tmp_path / "a.zarr", "new")
    assert names(tmp_path) == ["a.zarr", "elsewhere"]
    assert set(content(tmp_path / "elsewhere").values()) == {"old"}
    assert set(content(tmp_path / "a.zarr").values()) == {"new"}


# Places


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_is_there_is_not_overwritten_unasked(tmp_path, kind):
    target = tmp_path / "a"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "none")
    before = target.lstat()
    with pytest.raises(OutputError, match=r"a exists and is not overwritten, choose another name or place\."), \
            whole_file(target, overwrite=False):  # fmt: skip
        raise AssertionError
    with pytest.raises(OutputError, match="exists and is not overwritten"), whole_folder(target):
        raise AssertionError
    with pytest.raises(OutputError, match=r"a: exists already, choose another name or overwrite it \(--overwrite"):
        check_place(target, overwrite=False)
    assert target.lstat() == before
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("kind", [whole_file, whole_folder])
def test_what_appears_meanwhile_stays_and_the_finished_output_is_kept(tmp_path, monkeypatch, kind, links):
    target = tmp_path / "a.x"
    options = {"overwrite": False} if kind is whole_file else {}
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))

    def write():
        with kind(target, **options) as partial:
            (partial / "part" if kind is whole_folder else partial).write_text("finished")
            target.write_text("somebody else's")

    with pytest.raises(OutputError, match=r"appeared while .* the finished one is .*a\.finished-1\.x: rename or"):
        write()
    assert target.read_text() == "somebody else's"
    assert names(tmp_path) == ["a.finished-1.x", "a.x"]
    assert "finished" in content(tmp_path).values()


def test_a_file_that_appears_at_the_last_moment_is_not_replaced(tmp_path, monkeypatch):
    link = os.link

    def late(path, target):
        target.write_text("somebody else's")
        link(path, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputError, match="appeared while"), whole_file(tmp_path / "a", overwrite=False) as partial:
        partial.write_text("finished")
    assert content(tmp_path) == {"a": "somebody else's", "a.finished-1": "finished"}


def test_a_folder_that_appears_between_the_two_renames_is_replaced_in_turn(tmp_path, monkeypatch):
    target = tmp_path / "a.zarr"
    fill(target, "old")
    rename, calls = Path.rename, []

    def interfere(self, other):
        result = rename(self, other)
        calls.append(other)
        if len(calls) == 1:
            fill(target, "somebody else's")
        return result

    monkeypatch.setattr(Path, "rename", interfere)
    replace_folder(target, "new")
    assert names(tmp_path) == ["a.zarr"]
    assert set(content(target).values()) == {"new"}


def test_a_file_is_new_too_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    with whole_file(tmp_path / "a", overwrite=False) as partial:
        partial.write_text("whole")
    assert content(tmp_path) == {"a": "whole"}


def test_a_place_without_its_folder_is_one_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"none/a: cannot be written \(No such file or directory\), give a writable"):
        write_text(tmp_path / "none" / "a", "")
    with pytest.raises(OutputError, match=r"none/a: there is no folder .*none, create it first"):
        check_place(tmp_path / "none" / "a", overwrite=True)


# Several processes

RACE = """
import sys
from pathlib import Path
from connectomics_zoo.errors import OutputError
from connectomics_zoo.files.atomic import PartialOutput, whole_file

target, mine, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for number in range(150):
    if kind == "new":
        try:
            with whole_file(target.with_name(f"{number}"), overwrite=False) as partial:
                partial.write_text(mine * 1000)
            print(number, flush=True)
        except OutputError:
            pass
        continue
    output = PartialOutput(target, overwrite=True)
    with output.writing():
        if kind == "file":
            output.path.write_text(mine * 1000)
        else:
            output.path.mkdir()
            for name in "abc":
                (output.path / name).write_text(mine)
"""


def race(target: Path, kind: str) -> list[set[str]]:
    """Let two processes write the same targets at the same time; return the numbers that each says are its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(target), mine, kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for mine in "12"
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    return [set(out.split()) for out, _ in results]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_processes_that_overwrite_the_same_target_one_wins_and_none_fails(here, kind):
    race(here / "a", kind)
    assert names(here) == ["a"]
    found = content(here)
    assert found in ([{"a": "1" * 1000}, {"a": "2" * 1000}] if kind == "file" else
                     [dict.fromkeys(("a/a", "a/b", "a/c"), mine) for mine in "12"])  # fmt: skip


def test_of_two_processes_that_write_a_new_file_one_alone_has_it(here):
    first, second = race(here / "a", "new")
    assert not first & second
    assert {str(number) for number in range(150)} == first | second
    for number in first:
        assert (here / number).read_text() == "1" * 1000


def test_two_threads_that_write_the_same_target_do_not_touch_each_others(here):
    first, second = (PartialOutput(here / "a", overwrite=True) for _ in range(2))
    with first.writing():
        first.path.write_text("half")
        thread = threading.Thread(target=write_text, args=(here / "a", "of the other"))
        thread.start()
        thread.join()
        with second.writing():
            second.path.write_text("second")
        assert (here / "a").read_text() == "second"
        assert first.path.read_text() == "half"
        first.path.write_text("first")
    assert content(here) == {"a": "first"}


def test_a_folder_that_another_thread_is_replacing_is_not_put_back(here, monkeypatch):
    target = here / "a.zarr"
    fill(target, "old")
    rename, found = Path.rename, []

    def look(self, other):
        result = rename(self, other)
        if self == target:
            check_place(target, overwrite=True)
            PartialOutput(target, overwrite=True)
            found.append(names(here))
        return result

    monkeypatch.setattr(Path, "rename", look)
    replace_folder(target, "new")
    assert found == [[f".a.zarr.old-{os.getpid()}-*", f".a.zarr.partial-{os.getpid()}-*"]]
    assert names(here) == ["a.zarr"]


# What killed processes leave


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_clears_what_is_left(here, step):
    target = here / "a.txt"
    write_text(target, "old")
    half = "Path.write_text = lambda self, *_, **__: (self.touch(), die())" if step == "write_text" else ""
    pid = run_killed(target, (half or "Path.replace = die") + "\nwrite_text(target, 'new')")
    assert target.read_text() == "old"
    assert names(here) == [f".a.txt.partial-{pid}-*", "a.txt"]
    write_text(target, "new")
    assert content(here) == {"a.txt": "new"}


def test_the_folder_of_a_killed_writer_is_cleared_by_the_next_one(here):
    target = here / "a.zarr"
    code = "output = PartialOutput(target, overwrite=False)\noutput.path.mkdir()\n(output.path / 'c').touch()\ndie()"
    pid = run_killed(target, code)
    assert names(here) == [f".a.zarr.partial-{pid}-*"]
    PartialOutput(target, overwrite=False)
    assert names(here) == []


@pytest.mark.parametrize("random", ["", "-0123abcd"])
@pytest.mark.parametrize("kind", ["partial", "old"])
def test_what_any_version_has_left_is_cleared(here, kind, random):
    write_text(here / "a", "old")
    (here / f".a.{kind}-{gone()}{random}").write_text("half")
    write_text(here / "a", "new")
    assert content(here) == {"a": "new"}


@pytest.mark.parametrize(
    "name",
    [
        *(".a.partial-{other}", ".a.partial-{other}-0123abcd", ".ab.partial-{pid}", ".a.partial-{pid}x"),
        *(".a.partial-0{pid}", ".a.partial-{pid}-0123", ".a.partial-{pid}-0123abcd-1"),
    ],
)
def test_what_may_be_somebody_elses_is_left(here, name):
    left = name.format(pid=gone(), other=os.getppid())
    (here / left).write_text("theirs")
    write_text(here / "a", "mine")
    assert content(here) == {"a": "mine", left: "theirs"}


def test_on_a_file_system_of_several_machines_partial_outputs_are_left(here):
    local._MOUNTS.write_text("20 1 0:50 /export / rw,relatime shared:2 - nfs4 server:/export rw\n")
    left = f".a.partial-{gone()}"
    (here / left).write_text("of another machine")
    write_text(here / "a", "mine")
    assert content(here) == {"a": "mine", left: "of another machine"}


def test_clearing_never_follows_a_link(here):
    fill(here / "precious", "mine")
    (here / f".a.partial-{gone()}").symlink_to(here / "precious")
    write_text(here / "a", "mine")
    assert names(here) == ["a", "precious"]
    assert set(content(here / "precious").values()) == {"mine"}


def test_a_folder_whose_replacement_was_killed_between_two_renames_comes_back(here, caplog):
    target = here / "a.zarr"
    fill(target, "old")
    pid = run_killed(target, KILLED_IN_REPLACING.format(call=2))
    assert names(here) == [f".a.zarr.old-{pid}-*", f".a.zarr.partial-{pid}-*"]
    left = next(here.glob(".a.zarr.old-*"))
    with caplog.at_level(logging.WARNING), pytest.raises(OutputError, match=r"a\.zarr: exists already"):
        check_place(target, overwrite=False)
    message = f"{target} was left as {left} by a killed process that was replacing it, and is back."
    assert caplog.messages == [message]
    assert set(content(target).values()) == {"old"}
    replace_folder(target, "new")
    assert names(here) == ["a.zarr"]
    assert set(content(target).values()) == {"new"}


@pytest.mark.parametrize("call", [1, 3])
def test_killed_before_or_after_the_two_renames_a_whole_folder_has_the_name(here, call):
    target = here / "a.zarr"
    fill(target, "old")
    pid = run_killed(target, KILLED_IN_REPLACING.format(call=call))
    assert set(content(target).values()) == {"old" if call == 1 else "new"}
    assert names(here) == [f".a.zarr.{'partial' if call == 1 else 'old'}-{pid}-*", "a.zarr"]
    replace_folder(target, "newer")
    assert names(here) == ["a.zarr"]
    assert set(content(target).values()) == {"newer"}


def test_the_replaced_folder_never_comes_back_by_halves(here, monkeypatch):
    """Killed while it is deleted, it has no name any more that would bring it back when the new one is moved away."""
    target = here / "a.zarr"
    fill(target, "old")
    code = KILLED_IN_REPLACING.format(call=0).replace("output =", "import shutil; shutil.rmtree = die\noutput =")
    pid = run_killed(target, code)
    assert names(here) == [f".a.zarr.partial-{pid}-*", "a.zarr"]
    target.rename(here / "b.zarr")
    check_place(target, overwrite=False)
    assert "a.zarr" not in names(here)


def test_a_folder_that_a_living_process_may_be_replacing_is_left_and_said(here, caplog):
    left = here / f".a.zarr.old-{os.getppid()}"
    fill(left, "theirs")
    with caplog.at_level(logging.WARNING):
        check_place(here / "a.zarr", overwrite=True)
    assert caplog.messages == [
        f"{here / 'a.zarr'} is now {left}: process {os.getppid()} is replacing it, or was killed: rename it then."
    ]
    assert names(here) == [left.name]


@pytest.mark.parametrize("random", ["", "-0123abcd"])
def test_the_first_process_of_a_container_takes_back_what_its_forerunner_of_the_same_number_left(here, random):
    fill(here / f".a.zarr.old-{os.getpid()}{random}", "old")
    fill(here / f".a.zarr.partial-{os.getpid()}{random}", "new")
    PartialOutput(here / "a.zarr", overwrite=True)
    assert names(here) == ["a.zarr"]
    assert set(content(here).values()) == {"old"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_pipe_stays_what_it_is(tmp_path, overwrite):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OutputError, match=r"pipe: is a device, pipe or socket and no file, give the name of a file\."):
        check_place(path, overwrite=overwrite)
    with pytest.raises(OutputError, match="is a device, pipe or socket"):
        write_text(path, "lost")
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/stdout").is_symlink(), reason="needs Linux's /dev")
def test_the_links_among_the_devices_are_not_replaced():
    with pytest.raises(OutputError, match="/dev/stdout: is a device, pipe or socket"):
        check_place(Path("/dev/stdout"), overwrite=True)
