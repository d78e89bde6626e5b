"""Run folders are made and resumed under their lock, and nothing is left of what came to nothing."""

from __future__ import annotations

import pytest
from support.lock_holder import GONE, LockHolder, write_lock
from support.tiny_training import make_run

from connectomics_zoo.errors import OutputError, UnknownNameError
from connectomics_zoo.runs.claim import claim_new, claim_resumed
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, LOCK_FILE, WEIGHTS_FILE, write_run
from connectomics_zoo.runs.lock import TAKEOVER


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_folder_is_locked_for_the_block_and_keeps_what_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    with claim_new(folder):
        assert names_in(folder) == [LOCK_FILE]
        (folder / "x").touch()
    assert names_in(tmp_path) == ["a", "a/b", "a/b/x"]


def test_a_new_folder_in_which_nothing_was_written_is_taken_away_with_the_folders_made_for_it(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), claim_new(tmp_path / "there" / "a" / "b"):
        raise KeyError
    with claim_new(tmp_path / "there"):
        pass
    assert names_in(tmp_path) == ["there"]


@pytest.mark.parametrize("content", ["x", f"{LOCK_FILE}file"])
def test_a_folder_with_something_in_it_is_refused_and_stays_as_it_is(tmp_path, content):
    (tmp_path / content).touch()
    with (
        pytest.raises(OutputError, match=r"exists and is not empty, choose another folder\.$"),
        claim_new(tmp_path),
    ):
        pass
    assert names_in(tmp_path) == [content]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(OutputError, match="x exists and is not empty"), claim_new(tmp_path / "x"):
        pass
    with pytest.raises(OutputError, match="the run folder cannot be made"), claim_new(tmp_path / "x" / "run"):
        pass
    assert names_in(tmp_path) == ["x"]


def test_locks_of_killed_processes_alone_leave_a_folder_empty(tmp_path):
    for name in (LOCK_FILE, LOCK_FILE + TAKEOVER, f"{LOCK_FILE}.0123abcd"):
        write_lock(tmp_path, name=name, **GONE)
    with claim_new(tmp_path):
        pass
    write_lock(tmp_path, name=LOCK_FILE + TAKEOVER, **GONE)  # killed before it took anything over
    with claim_new(tmp_path):
        (tmp_path / "x").touch()
    assert (tmp_path / "x").exists()


def test_a_folder_that_another_process_has_just_made_stays(tmp_path):
    with LockHolder() as other:
        (tmp_path / "run").mkdir()
        other.send(tmp_path / "run")
        assert other.answer() == "holds"
        with pytest.raises(OutputError, match="is in use by the process"), claim_new(tmp_path / "run"):
            pass
        assert names_in(tmp_path) == ["run", f"run/{LOCK_FILE}"]


def test_only_a_run_with_nothing_to_lose_is_resumed_without_a_checkpoint(tmp_path):
    with pytest.raises(UnknownNameError, match=r"is no run folder: it has no spec\.yaml"), claim_resumed(tmp_path):
        pass
    write_run(make_run({}), tmp_path)
    with claim_resumed(tmp_path):  # killed before its first checkpoint
        pass
    (tmp_path / WEIGHTS_FILE).touch()
    message = rf"has no {CHECKPOINT_FILE} to resume from: train anew in another folder, with init_from={tmp_path} to"
    before = names_in(tmp_path)
    with pytest.raises(UnknownNameError, match=message), claim_resumed(tmp_path):
        pass
    assert names_in(tmp_path) == before
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / CHECKPOINT_FILE).touch()
    before = names_in(tmp_path)
    with claim_resumed(tmp_path):
        assert names_in(tmp_path) == sorted([LOCK_FILE, *before])
    assert names_in(tmp_path) == before


def test_a_folder_in_the_way_is_to_be_resumed_only_where_that_is_possible(tmp_path):
    write_run(make_run({}), tmp_path)
    with pytest.raises(OutputError, match=rf"or resume it with zoo train {tmp_path} --resume\.$"), claim_new(tmp_path):
        pass
    (tmp_path / WEIGHTS_FILE).touch()
    with pytest.raises(OutputError, match=r"choose another folder\.$"), claim_new(tmp_path):
        pass
