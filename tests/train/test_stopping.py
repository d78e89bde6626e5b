"""A signal at any point of a run, and then `--resume`, gives what the run would have given that was never stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading

import pytest
import torch
from support.tiny_training import request, write_volume

from connectomics_zoo.errors import LimitError
from connectomics_zoo.runs.checkpoint import write_checkpoint
from connectomics_zoo.runs.folder import CHECKPOINT_FILE, CURVE_FILE, LOG_FILE, METRICS_FILE, WEIGHTS_FILE
from connectomics_zoo.train import callbacks as callbacks_module
from connectomics_zoo.train import train
from connectomics_zoo.train.module import SegmentationModule
from connectomics_zoo.train.patches import TrainingPatches
from connectomics_zoo.weights.storage import write_weights

RECIPE = {"max_steps": 9, "validate_every": 4, "ema_decay": 0.9, "early_stopping": 5}

PLACES = {
    "data": (TrainingPatches, "_draw", TrainingPatches._draw),
    "forward": (SegmentationModule, "training_step", SegmentationModule.training_step),
    "backward": (torch.Tensor, "backward", torch.Tensor.backward),
    "optimizer": (torch.optim.AdamW, "step", torch.optim.AdamW.step),
    "validation": (SegmentationModule, "validation_step", SegmentationModule.validation_step),
    "keeping": (callbacks_module, "write_weights", write_weights),
    "saving": (callbacks_module, "write_checkpoint", write_checkpoint),
}


@pytest.fixture(autouse=True)
def listening():
    """Ctrl-C is heard, also where the tests run in the background of a script, whose commands ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return write_volume(tmp_path_factory.mktemp("data") / "v.h5")


@pytest.fixture(scope="module")
def unstopped(volume, tmp_path_factory):
    """What the run gives that is never stopped."""
    return results(train("mednext-S", request(volume, **RECIPE), output=tmp_path_factory.mktemp("whole") / "run"))


def results(report):
    folder = report.folder
    return {
        "weights": (folder / WEIGHTS_FILE).read_bytes(),
        "metrics": (folder / METRICS_FILE).read_text(),
        "log": (folder / LOG_FILE).read_text(),
        "logs": sorted(path.name for path in (folder / "logs").glob("*.csv")),
        "network": torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"],
    }


def assert_same(given, expected):
    assert {name: given[name] for name in ("metrics", "log", "logs", "weights")} == {
        name: expected[name] for name in ("metrics", "log", "logs", "weights")
    }
    assert all(torch.equal(given["network"][name], value) for name, value in expected["network"].items())


def signal_in(monkeypatch, place, *, call, number=signal.SIGTERM, times=1):
    """Let the process be signalled within the given call of a place, once it has done its work."""
    owner, name, original = PLACES[place]
    calls = []

    def wrapped(*args, **options):
        result = original(*args, **options)
        calls.append(name)
        if len(calls) == call:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("place", "call", "number", "steps"),
    [
        ("data", 1, signal.SIGTERM, 0),
        ("forward", 6, signal.SIGTERM, 6),
        ("backward", 3, signal.SIGINT, 3),
        ("optimizer", 5, signal.SIGINT, 5),
        ("validation", 6, signal.SIGINT, 8),
        ("keeping", 1, signal.SIGTERM, 4),
        ("saving", 2, signal.SIGTERM, 8),
    ],
)
def test_a_signal_anywhere_changes_nothing_of_what_the_resumed_run_gives(
    volume, tmp_path, monkeypatch, unstopped, place, call, number, steps
):
    with monkeypatch.context() as patch:
        signal_in(patch, place, call=call, number=number)
        with pytest.raises(KeyboardInterrupt, match=f"run: stopped after {steps} steps, go on with --resume"):
            train("mednext-S", request(volume, **RECIPE), output=tmp_path / "run")
    assert torch.load(tmp_path / "run" / CHECKPOINT_FILE, weights_only=True)["global_step"] == steps
    assert_same(results(train(tmp_path / "run", resume=True)), unstopped)


@pytest.mark.parametrize(("place", "call", "steps"), [("validation", 6, 4), ("forward", 2, None)])
def test_a_second_signal_stops_at_once_and_leaves_the_last_whole_state(
    volume, tmp_path, monkeypatch, unstopped, place, call, steps
):
    with monkeypatch.context() as patch:
        signal_in(patch, place, call=call, times=2)
        message = "before the first checkpoint, begin again" if steps is None else f"after {steps} steps, go on"
        with pytest.raises(KeyboardInterrupt, match=f"run: stopped {message} with --resume"):
            train("mednext-S", request(volume, **RECIPE), output=tmp_path / "run")
    assert_same(results(train(tmp_path / "run", resume=True)), unstopped)


def test_a_signal_within_a_step_of_several_batches_waits_for_all_of_them(volume, tmp_path, monkeypatch):
    changes = request(volume, max_steps=3, validate_every=3, accumulate=2)
    whole = results(train("mednext-S", changes, output=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        signal_in(patch, "forward", call=3)
        with pytest.raises(KeyboardInterrupt, match="run: stopped after 2 steps"):
            train("mednext-S", changes, output=tmp_path / "run")
    assert_same(results(train(tmp_path / "run", resume=True)), whole)


def test_dropout_goes_on_with_the_random_numbers_that_it_would_have_had(volume, tmp_path, monkeypatch):
    original = SegmentationModule.forward

    def forward(self, x):
        return original(self, torch.nn.functional.dropout(x, training=self.training))

    monkeypatch.setattr(SegmentationModule, "forward", forward)
    changes = request(volume, max_steps=4, validate_every=2)
    whole = results(train("mednext-S", changes, output=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        signal_in(patch, "optimizer", call=3)
        with pytest.raises(KeyboardInterrupt, match="run: stopped after 3 steps"):
            train("mednext-S", changes, output=tmp_path / "run")
    assert_same(results(train(tmp_path / "run", resume=True)), whole)


def test_a_signal_in_the_last_step_lets_the_run_end(volume, tmp_path, monkeypatch, unstopped):
    signal_in(monkeypatch, "optimizer", call=9)
    assert_same(results(train("mednext-S", request(volume, **RECIPE), output=tmp_path / "run")), unstopped)


def test_a_signal_to_the_whole_group_leaves_the_workers_their_work(volume, tmp_path):
    changes = request(volume, max_steps=3, validate_every=1, workers=2)
    seen = []

    def progress(state):
        seen.append(state.done)
        if seen.count(2) == 1 and state.done == 2:  # before a validation, whose workers have been there since the first
            workers = multiprocessing.active_children()
            assert len(workers) >= 2
            for process in (*workers, multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="run: stopped after 2 steps"):
        train("mednext-S", changes, output=tmp_path / "run", progress=progress)
    assert train(tmp_path / "run", resume=True).steps == 3


def test_the_signals_are_the_caller_s_again_and_a_thread_trains_without_them(volume, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    steps = []
    changes = request(volume, max_steps=1)
    thread = threading.Thread(target=lambda: steps.append(train("mednext-S", changes, output=tmp_path / "run").steps))
    thread.start()
    thread.join()
    assert steps == [1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_finished_run_that_is_resumed_says_so_and_changes_nothing(volume, tmp_path):
    report = train("mednext-S", request(volume, max_steps=2), output=tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in report.folder.rglob("*") if path.is_file()}
    said = []
    assert train(tmp_path / "run", resume=True, notify=said.append) == report
    assert {path: path.stat().st_mtime_ns for path in report.folder.rglob("*") if path.is_file()} == before
    assert said == [f"{tmp_path}/run: has done its 2 steps, give training.max_steps=N with a larger N to go on."]


def test_a_run_killed_after_its_last_checkpoint_gets_its_metrics_and_curve_without_a_step(volume, tmp_path):
    report = train("mednext-S", request(volume, max_steps=2), output=tmp_path / "run")
    metrics = json.loads((report.folder / METRICS_FILE).read_text())
    (report.folder / METRICS_FILE).unlink()
    (report.folder / CURVE_FILE).unlink()
    seen = []
    train(tmp_path / "run", resume=True, progress=seen.append)
    assert seen == []
    assert json.loads((report.folder / METRICS_FILE).read_text()) == metrics
    assert (report.folder / CURVE_FILE).is_file()


def test_checkpoints_need_no_folder_for_temporary_files(volume, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("mkstemp", "NamedTemporaryFile"):
        monkeypatch.setattr(f"tempfile.{name}", fail)
    train("mednext-S", request(volume, max_steps=1), output=tmp_path / "run")
    assert (tmp_path / "run" / CHECKPOINT_FILE).is_file()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_a_cpu_without_memory_is_one_sentence(volume, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    with pytest.raises(LimitError, match=r"^the CPU has not enough memory for batches of 1 patches of \[16, 32"):
        train("mednext-S", request(volume), output=tmp_path / "run", device="cpu")
