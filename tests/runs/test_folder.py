"""The run folder has one home: its names, and whoever reads or writes what lies in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from support.tiny_training import make_run

import connectomics_zoo
from connectomics_zoo.errors import UnknownNameError, WeightsError
from connectomics_zoo.runs import folder as names
from connectomics_zoo.runs.checkpoint import read_checkpoint, write_checkpoint
from connectomics_zoo.runs.folder import (
    CHECKPOINT_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    get_run,
    weights_in,
    write_run,
)
from connectomics_zoo.runs.logs import drop_old_logs, read_series, set_log_aside
from connectomics_zoo.runs.metrics import has_metrics, read_metrics, write_metrics
from connectomics_zoo.runs.tuned import read_tuned, write_tuned
from connectomics_zoo.schema.tuned import TunedDecoding
from connectomics_zoo.specs.lookup import get_spec

ENGINE = Path(connectomics_zoo.__file__).parent

HOMES = {
    # Logs are a word, the log's name is made of two parts, and names in git may not end in .lock either.
    "runs/folder.py": {
        value for name, value in vars(names).items() if name.isupper() and name not in ("LOGS", "LOG_FILE", "LOCK_FILE")
    },
    "schema/experiment.py": {"???"},
    "compat/request.py": {"???"},  # OmegaConf's mark of a missing value
}


def test_the_names_of_its_files_and_the_mark_of_a_missing_folder_stand_in_one_place():
    assert len(HOMES["runs/folder.py"]) >= 9
    known = set().union(*HOMES.values())
    found: dict[str, set[str]] = {}
    for path in ENGINE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        constants = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        if constants & known:
            found[str(path.relative_to(ENGINE))] = constants & known
    assert found == HOMES


def test_the_folder_of_the_volumes_is_resolved_in_one_place():
    texts = {path: path.read_text(encoding="utf-8") for path in ENGINE.rglob("*.py")}
    resolving = [path for path, text in texts.items() if "root).expanduser" in text]
    assert resolving == [ENGINE / "schema" / "experiment.py"]


def test_a_spec_is_read_as_it_was_written_and_replaces_another(tmp_path):
    for seed in (1, 2):
        run = make_run({"root": "~/data"}, seed=seed).model_copy(update={"model": get_spec("mednext-S")})
        write_run(run, tmp_path)
        assert get_run(tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == [SPEC_FILE]


def test_a_folder_that_is_no_run_folder_says_what_is_missing(tmp_path):
    with pytest.raises(UnknownNameError, match=rf"is no run folder: it has no {SPEC_FILE}; give the folder that zoo t"):
        get_run(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match=f"is a folder without {SPEC_FILE}, a run folder has one"):
        weights_in(tmp_path)
    write_run(make_run({}), tmp_path)
    with pytest.raises(WeightsError, match=f"{WEIGHTS_FILE}: there is no such weights file, is the training still run"):
        weights_in(tmp_path)


@pytest.mark.parametrize("name", [SPEC_FILE, WEIGHTS_FILE])
def test_a_link_out_of_the_folder_is_not_followed_and_one_within_it_is(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(make_run({}), folder)
    (folder / WEIGHTS_FILE).touch()
    (folder / name).rename(folder / "kept")
    (folder / name).symlink_to("kept")
    assert weights_in(folder) == folder / WEIGHTS_FILE
    (folder / "kept").rename(tmp_path / "kept")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "kept")
    with pytest.raises(WeightsError, match=rf"{name}: is a link out of its folder, which is not followed"):
        weights_in(folder)


def test_scores_are_read_as_they_were_written(tmp_path):
    assert not has_metrics(tmp_path)
    write_metrics({"val/dice": 0.5, "step": 3.0}, tmp_path, steps=4)
    assert has_metrics(tmp_path)
    assert read_metrics(tmp_path) == ({"val/dice": 0.5}, 4, 3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"steps": 1, "step": 1, "val/dice": "good"}'])
def test_damaged_scores_are_one_sentence(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(WeightsError, match=r"metrics\.json: is not what zoo train writes .*, restore it"):
        read_metrics(tmp_path)


def test_what_tuning_found_is_read_as_it_was_written(tmp_path):
    tuned = TunedDecoding.model_validate(
        {
            "schema_version": 1,
            "kind": "decode",
            "decode": {"method": "components", "threshold": 0.4, "min_size": 9},
            "adapted_rand_error": 0.1,
            "voi": 0.2,
            "prediction": "p.h5",
            "truth": "t.h5",
        }
    )
    assert read_tuned(tmp_path) is None
    assert write_tuned(tuned, tmp_path) == tmp_path / "decode.yaml"
    assert read_tuned(tmp_path) == tuned


def test_a_checkpoint_replaces_another_only_when_it_is_whole(tmp_path):
    write_checkpoint(tmp_path, lambda path: torch.save({"global_step": 3, "callbacks": {"A": {"b": 1}}}, path))
    with pytest.raises(ZeroDivisionError):
        write_checkpoint(tmp_path, lambda path: path.write_bytes(b"half") / 0)
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.steps, checkpoint.callbacks) == (3, {"A": {"b": 1}})


@pytest.mark.parametrize("content", [b"", b"broken", {"global_step": 3}, [1]])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    write_checkpoint(
        tmp_path, lambda path: path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    )
    with pytest.raises(WeightsError, match=rf"{CHECKPOINT_FILE}: is no checkpoint of a run, or damaged: train it anew"):
        read_checkpoint(tmp_path)


def test_the_log_of_a_resumed_run_begins_with_the_rows_before_it_and_what_was_done_twice_counts_once(tmp_path):
    log = tmp_path / names.LOG_FILE
    log.parent.mkdir()
    assert set_log_aside(tmp_path, step=0) == []  # there is none yet
    log.write_text("step,loss\n0,5\n1,4\n2,3\n3,2\n4,1\n")
    assert set_log_aside(tmp_path, step=2) == [{"step": "0", "loss": "5"}, {"step": "1", "loss": "4"}]
    log.write_text("step,loss,other\n0,5,\n1,4,\n2,9,\n3,8,7\n")
    expected = [(0, 5.0), (1, 4.0), (2, 9.0), (3, 8.0)]
    assert read_series(tmp_path, "loss") == expected  # killed before the old one was dropped
    drop_old_logs(tmp_path)
    assert read_series(tmp_path, "loss") == expected
    assert read_series(tmp_path, "other") == [(3, 7.0)]
    assert list(log.parent.iterdir()) == [log]


def test_the_rows_of_a_log_that_was_not_begun_anew_before_the_kill_are_found(tmp_path):
    log = tmp_path / names.LOG_FILE
    log.parent.mkdir()
    log.write_text("step,loss\n0,5\n1,4\n2,3\n")
    set_log_aside(tmp_path, step=2)
    assert [row["step"] for row in set_log_aside(tmp_path, step=2)] == ["0", "1"]
